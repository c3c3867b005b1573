"""Encoder-decoders of transformers, searched token by token: what each says of a target as a whole, and generate()."""

from functools import cache
from itertools import product

import pytest
import torch
import transformers

from remask.core.decoder import Budget
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.decoders.beam import Beam
from remask.decoders.exact_mode import ExactMode
from remask.nets.causal_seq2seq import CausalSeq2SeqLM, _reach
from tests.nets.tiny import shake

V, PAD, BOS, END, LANGUAGE, LONGEST = 30, 0, 1, 2, 5, 16
SHAPE = {
    **{f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in [("layers", 2), ("ffn_dim", 24)]},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "max_position_embeddings": LONGEST},
}
IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": END}


def like_bart(family, start=PAD, **settings):
    config = getattr(transformers, f"{family}Config")(**SHAPE, **IDS, vocab_size=V, **settings)
    model = getattr(transformers, "MarianMTModel" if family == "Marian" else f"{family}ForConditionalGeneration")(
        config
    )
    if family == "Marian":
        model.final_logits_bias = torch.randn_like(model.final_logits_bias)
    return model, start


def two_berts():
    shape = {"vocab_size": V, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    shape |= {"num_hidden_layers": 2, "max_position_embeddings": LONGEST}
    halves = transformers.BertConfig(**shape), transformers.BertConfig(**shape)
    return transformers.EncoderDecoderModel(
        transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    ), BOS


FAMILIES = {
    "marian": lambda: like_bart("Marian", decoder_vocab_size=V),
    "bart": lambda: like_bart("Bart", start=END),
    "mbart": lambda: like_bart("MBart", start=END),
    "m2m": lambda: like_bart("M2M100", start=END),
    "pegasus": lambda: like_bart("Pegasus"),
    "two berts": two_berts,
}
FORCED = {"mbart": LANGUAGE, "m2m": LANGUAGE}


@cache
def plain(family):
    """A shaken model in float64, whose targets begin as its family's do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, start = FAMILIES[family]()
        shake(model, scale=0.3)
    settings = {"decoder_start_token_id": start, "forced_bos_token_id": FORCED.get(family), "forced_eos_token_id": None}
    model.generation_config = transformers.GenerationConfig(**IDS, **settings)
    return model.double().eval()


def model(family, end=END, size=V):
    return CausalSeq2SeqLM(plain(family), end, [PAD, BOS], size)


@torch.no_grad()
def whole(family, source, target):
    """Log p of the next token, [V], of a target read at once."""
    begun = model(family).begun
    ids, written = torch.tensor([source]), torch.tensor([[*begun, *target]])
    return plain(family)(input_ids=ids, decoder_input_ids=written, use_cache=False).logits[0, -1].log_softmax(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_prefix_of_a_tree_is_what_the_plain_model_says(family):
    causal, source = model(family), [7, 8, 9, 10, END]
    causal.check()
    root = causal.begin(source)
    kept = [x.clone() for layer in (*root.cache.layers, *root.cache.crossed) for x in layer]
    two = causal.extend(causal.rows(root, torch.tensor([0, 0])), torch.tensor([5, 6]))
    three = causal.extend(causal.rows(two, torch.tensor([1, 1, 0])), torch.tensor([9, 4, 4]))
    again = causal.extend(root, torch.tensor([11]))
    for prefixes, targets in [
        (root, [[]]),
        (two, [[5], [6]]),
        (three, [[6, 9], [6, 4], [5, 4]]),
        (again, [[11]]),
    ]:
        assert prefixes.log_prob.dtype == torch.float64
        assert prefixes.hidden.shape == (len(targets), 16)
        for row, target in enumerate(targets):
            alone = whole(family, source, target)
            assert prefixes.log_prob[row].isinf().nonzero()[:, 0].tolist() == [PAD, BOS]
            assert torch.allclose(prefixes.log_prob[row, 2:], alone[2:], atol=1e-9)
    assert all(
        torch.equal(a, b)
        for a, b in zip(kept, [x for y in (root.cache.layers, root.cache.crossed) for z in y for x in z])
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("beam", "penalty"), [(1, 0.0), (4, 0.0), (3, 1.0)])
def test_a_beam_finds_what_generate_finds(family, beam, penalty):
    sources = [[7, 8, 9, END], [12, 4, END], [20, 21, 22, 23, 24, END], [3, END]]
    found = Beam(beam=beam, length_penalty=penalty)(model(family), sources, Stream.of(0, 4), Budget(9))
    begun = model(family).begun
    for row, source in enumerate(sources):
        how = {"num_beams": beam, "length_penalty": penalty, "do_sample": False, "bad_words_ids": [[PAD], [BOS]]}
        how |= {"early_stopping": "never"} if beam > 1 else {}
        theirs = plain(family).generate(torch.tensor([source]), max_length=9 + len(begun), **how)[0].tolist()
        theirs = [token for token in theirs[len(begun) :] if token not in (PAD, END)]
        assert found.texts(END)[row] == theirs


class Forgetful(CausalSeq2SeqLM):
    """The planted bug: the rows of another source."""

    def rows(self, prefixes, index):
        found = super().rows(prefixes, index)
        other = tuple((keys.flip(2), values) for keys, values in found.cache.crossed)
        return found._replace(cache=found.cache._replace(crossed=other))


def test_a_source_that_is_mixed_up_is_caught():
    causal, source = Forgetful(plain("marian"), END, [PAD, BOS], V), [7, 8, 9, 10, END]
    prefixes = causal.extend(causal.rows(causal.begin(source), torch.tensor([0])), torch.tensor([5]))
    assert not torch.allclose(prefixes.log_prob[0, 2:], whole("marian", source, [5])[2:], atol=1e-3)


@pytest.mark.parametrize("family", ["marian", "mbart"])
def test_the_mode_is_that_of_all_texts(family):
    """Depth-first against every target of up to 3 tokens over 6 ids: the others are beyond the tokenizer."""
    small, source = 6, [4, 3, END]
    causal = model(family, size=small)
    found = ExactMode()(causal, [source], Stream.of(0, 1), Budget(4))
    assert bool(found.info.certified)
    best = max(
        sum(float(whole(family, source, text[:n])[token]) for n, token in enumerate((*text, END)[:4]))
        for length in range(5)
        for text in product((3, 4, 5), repeat=length)
    )
    assert float(found.log_prob) == pytest.approx(best, abs=1e-6)


def test_models_that_cannot_be_searched():
    causal = model("bart")
    assert (causal.source_length, causal.longest, causal.window) == (LONGEST, LONGEST, 2 * LONGEST)
    assert model("mbart").longest == LONGEST - 1
    with pytest.raises(BadInput, match="source of 17 tokens came, and the model reads 1 to 16: shorten it"):
        causal.begin([5] * 17)
    with pytest.raises(BadInput, match="source of 0 tokens came"):
        causal.begin([])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        aimless, _ = like_bart("Bart")
        sizes = {f"num_{half}_{what}": 1 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
        shape = {"hidden_size": 16, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": PAD}
        prophet = transformers.ProphetNetConfig(vocab_size=V, max_position_embeddings=LONGEST, **sizes, **shape, **IDS)
        ngrams = shake(transformers.ProphetNetForConditionalGeneration(prophet), scale=0.3)
    for settings in (aimless.config, aimless.generation_config):
        settings.decoder_start_token_id = settings.bos_token_id = None
    with pytest.raises(BadCheckpoint, match="does not say what a target begins with"):
        CausalSeq2SeqLM(aimless, END)
    with pytest.raises(BadCheckpoint, match="'prophetnet' model keeps its states in a way of its own"):
        CausalSeq2SeqLM(ngrams, END, [PAD, BOS]).check()


def test_texts_end_where_places_do():
    """The library's own budget may be larger; and each half of a model may have its own number of places."""
    with pytest.raises(BadInput, match="target of more than 16 tokens came"):
        Beam(beam=1, length=20)(model("bart"), [[5, END]], Stream.of(0, 1), Budget(24))
    assert (model("two berts").source_length, model("two berts").longest) == (LONGEST, LONGEST)
    led = transformers.LEDConfig(**SHAPE, **IDS, vocab_size=V, max_encoder_position_embeddings=40)
    assert (_reach(led, "encoder"), _reach(led, "decoder")) == (40, led.max_decoder_position_embeddings)


def test_ids_of_another_vocabulary():
    """A mask token behind the model's last id, as BARTs for summaries have one, and an end that is not there."""
    causal = CausalSeq2SeqLM(plain("bart"), END, [PAD, BOS, V, V + 3])
    causal.check()
    assert causal.silent.tolist() == [PAD, BOS]
    with pytest.raises(BadCheckpoint, match="end token has id 30, and the model writes 30 ids"):
        CausalSeq2SeqLM(plain("bart"), V)


def test_a_language_has_to_be_told():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other, _ = like_bart("MBart")
    other.generation_config.decoder_start_token_id = END
    with pytest.raises(BadCheckpoint, match="'mbart' model writes many languages and is told none"):
        CausalSeq2SeqLM(other, END)
    other.generation_config.decoder_start_token_id = LANGUAGE  # fine-tuned to one
    assert CausalSeq2SeqLM(other, END).begun == [LANGUAGE]


def test_a_cache_that_counts_places_otherwise_is_noticed():
    """M2M-100 gives padding no place: with padding as the start, a cached target stands a place farther."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other, _ = like_bart("M2M100")
    shake(other, scale=0.3).generation_config.decoder_start_token_id = PAD
    with pytest.raises(BadCheckpoint, match="'m2m_100' model keeps its states"):
        CausalSeq2SeqLM(other, END, [PAD, BOS]).check()
