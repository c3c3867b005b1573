"""Causal models with keys and values kept: of every prefix they say what the plain model says of it, alone."""

from functools import cache

import pytest
import torch
import transformers

from remask.core.alphabet import Alphabet
from remask.core.decoder import Budget
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.decoders import batched
from remask.decoders.beam import Beam
from remask.decoders.exact_mode import ExactMode
from remask.nets.causal import CausalNet
from remask.nets.causal_encoder_decoder import CausalEncoderDecoder
from tests.nets.tiny import LONGEST, MASK, V, make, shake, text
from tests.translate.causal import ALPHABET, net
from tests.translate.nets import parallel

END, START = 2, 3
SHAPE = {"vocab_size": V, "bos_token_id": START, "eos_token_id": END, "pad_token_id": 0}
FOREIGN = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SHAPE, n_embd=32, n_layer=2, n_head=4, n_positions=LONGEST)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SHAPE,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LONGEST,
        )
    ),
}
FAMILIES = [*FOREIGN, "modernbert-decoder", "remask-modernbert-decoder"]


@cache
def plain(family):
    """A shaken model in float64."""
    if family not in FOREIGN:
        return make(family).double().model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shake(FOREIGN[family](), scale=0.2).double()


def model(family, **rest):
    return CausalNet(plain(family), END, START, [MASK], **rest)


@torch.no_grad()
def alone(family, prefix):
    """Log p of the next token, [V], of the whole prefix at once, the mask having no probability."""
    logits = plain(family)(input_ids=torch.tensor([[START, *prefix]]), use_cache=False).logits[0, -1].clone()
    logits[MASK] = -torch.inf
    return logits.log_softmax(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_prefix_of_a_tree_is_what_the_plain_model_says(family):
    """Prompt, two branches, three branches of these, and back to the first: farther than a sliding window of 8."""
    causal, prompt = model(family), text(1, 11)[0].tolist()
    root = causal.begin(prompt)
    kept = [x.clone() for layer in root.cache for x in layer]
    tokens = text(2, 6, seed=1)
    two = causal.extend(causal.rows(root, torch.tensor([0, 0])), tokens[:, 0])
    three = causal.extend(causal.rows(two, torch.tensor([1, 0, 1])), tokens[[0, 1, 1], [2, 3, 4]])
    again = causal.extend(root, tokens[:1, 5])
    paths = [
        (root, [[]]),
        (two, tokens[:, :1].tolist()),
        (three, [[int(tokens[r, 0]), int(t)] for r, t in zip((1, 0, 1), tokens[[0, 1, 1], [2, 3, 4]])]),
        (again, [[int(tokens[0, 5])]]),
    ]
    for prefixes, rows in paths:
        assert prefixes.log_prob.dtype == torch.float64
        assert prefixes.hidden is not None
        assert prefixes.hidden.shape == (len(rows), 32)
        for row, rest in enumerate(rows):
            whole = alone(family, [*prompt, *rest])
            same = torch.isfinite(whole)
            assert torch.equal(torch.isfinite(prefixes.log_prob[row]), same)
            assert torch.allclose(prefixes.log_prob[row][same], whole[same], atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(kept, [x for layer in root.cache for x in layer]))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_the_head_reads(family):
    prefixes = model(family).begin(text(1, 5)[0].tolist())
    with torch.no_grad():
        out = plain(family)(input_ids=torch.tensor([[START, *text(1, 5)[0].tolist()]]), output_hidden_states=True)
    assert torch.allclose(prefixes.hidden[0], out.hidden_states[-1][0, -1], atol=1e-6)


def test_a_cache_that_is_a_token_short_is_caught():
    """The planted bug."""

    class Short(CausalNet):
        def extend(self, prefixes, tokens):
            cut = tuple((keys[:, :, 1:], values[:, :, 1:]) for keys, values in prefixes.cache)
            return super().extend(prefixes._replace(cache=cut), tokens)

    causal = Short(plain("gpt2"), END, START, [MASK])
    prefixes = causal.extend(causal.begin([5, 6]), torch.tensor([7]))
    seen = torch.isfinite(prefixes.log_prob[0])
    assert not torch.allclose(prefixes.log_prob[0][seen], alone("gpt2", [5, 6, 7])[seen], atol=1e-3)


def hashes(module):
    return [hash(p.detach().numpy().tobytes()) for p in module.parameters()]


@pytest.mark.parametrize("decoder", [Beam(beam=3), ExactMode(length=2, beam=2)], ids=["beam", "exact_mode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_changes_no_weight_and_batches_equal_singles(family, decoder):
    causal, prompts = model(family), [text(1, 6)[0].tolist(), [7], [], text(1, 3, seed=4)[0].tolist()]
    before = hashes(plain(family))
    together = decoder(causal, prompts, Stream.of(0, 4), Budget(3, 60))
    assert hashes(plain(family)) == before
    for row, prompt in enumerate(prompts):
        alone_ = decoder(causal, [prompt], Stream.of(0, torch.tensor([row])), Budget(3, 60))
        assert alone_.texts(END)[0] == together.texts(END)[row]
        assert alone_.log_prob[0] == together.log_prob[row]
        mine = together.canvas.tokens[row][together.canvas.unknown[row]].tolist()
        whole = sum(float(alone(family, [*prompt, *mine[:n]])[token]) for n, token in enumerate(mine))
        assert float(together.log_prob[row]) == pytest.approx(whole, abs=1e-5)
        assert not plain(family).training


def test_ids_beyond_the_tokenizer_are_silent():
    causal = model("gpt2", size=50)
    found = causal.begin([5]).log_prob
    assert found.shape == (1, 50)
    assert float(found.exp().sum()) == pytest.approx(1)
    assert (causal.size, causal.window) == (50, LONGEST - 1)


def test_a_text_may_end_in_several_ways():
    """One text, whichever token ended it: log p of its end is that of all of them, and no other is ever written."""
    ended = model("gpt2", ends=[7, END, 11, 99, MASK]).begin([5])
    usual = model("gpt2").begin([5])
    p, q = ended.log_prob[0].exp(), usual.log_prob[0].exp()
    assert float(p[END]) == pytest.approx(float(q[[END, 7, 11]].sum()))
    assert p[[7, 11]].tolist() == [0, 0]
    others = [token for token in range(len(p)) if token not in (END, 7, 11)]
    assert torch.allclose(p[others], q[others])
    assert float(p.sum()) == pytest.approx(1)
    # a text of a fixed length never ends, in whichever way
    written = batched.write(model("gpt2", ends=[7, 11]), torch.tensor([[5]] * 8), 20, Stream.of(0, 8), stop=False)
    assert not {END, 7, 11, MASK} & set(written.tokens.flatten().tolist())


def test_models_that_cannot_be_searched():
    shape = {"vocab_size": 30, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = transformers.BartForConditionalGeneration(transformers.BartConfig(**shape, **heads))
    with pytest.raises(BadCheckpoint, match="'bart' model has an encoder"):
        CausalNet(bart, END, None)
    old = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=20)
    )
    with pytest.raises(BadCheckpoint, match="keeps no keys and values"):
        CausalNet(old, END, None)
    with pytest.raises(BadCheckpoint, match="type a --prompt"):
        CausalNet(plain("gpt2"), END, None).begin([])


# ---- T5 --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def told(source, target):
    """Log p of the next token after a target, all at once, [V]."""
    reader = net(2)
    source = torch.tensor([[*source, ALPHABET.end]])
    reading = reader.read(source, torch.ones_like(source, dtype=torch.bool))
    hidden = reading.hidden(torch.tensor([[reader.start, *target]]))[0, -1:]
    return reading.log_probs(hidden, ALPHABET.mask)[0, : ALPHABET.size].double()


def test_a_t5_says_of_every_prefix_what_it_says_of_the_whole():
    causal = CausalEncoderDecoder(net(2), ALPHABET, 20)
    source = [7, 8, 9, 10, 4]
    root = causal.begin(source)
    two = causal.extend(causal.rows(root, torch.tensor([0, 0])), torch.tensor([5, 6]))
    three = causal.extend(causal.rows(two, torch.tensor([1, 1, 0])), torch.tensor([9, 4, 4]))
    again = causal.extend(root, torch.tensor([11]))
    paths = [(root, [[]]), (two, [[5], [6]]), (three, [[6, 9], [6, 4], [5, 4]]), (again, [[11]])]
    silent = sorted(ALPHABET.special - {ALPHABET.end})
    for prefixes, targets in paths:
        for row, target in enumerate(targets):
            whole = told(source, target).index_fill(0, torch.tensor(silent), -torch.inf)
            assert prefixes.log_prob[row].isinf().nonzero()[:, 0].tolist() == silent
            assert torch.allclose(prefixes.log_prob[row].exp(), whole.exp(), atol=1e-6)
    assert three.hidden.shape == (3, 24)


def test_a_t5_that_cannot_be_searched():
    with pytest.raises(BadCheckpoint, match="writes in parallel"):
        CausalEncoderDecoder(parallel(), ALPHABET, 20)
    with pytest.raises(BadCheckpoint, match="needs an end token"):
        CausalEncoderDecoder(net(2), Alphabet(30, mask=1, pad=0), 20)
    with pytest.raises(BadInput, match="source of 21 tokens came, its end counted, and the model reads 20"):
        CausalEncoderDecoder(net(2), ALPHABET, 20).begin([5] * 20)
