"""Scores of sentences: against plain transformers one token at a time, and exactly on laws that can be enumerated."""

import gzip
import json
from functools import cache

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint, BadData, BadInput
from remask.data.tokenizers import byte_tokenizer
from remask.metrics.likelihood import nats_of_cells
from remask.nets import encoder
from remask.nets.detector import Detector
from remask.objectives.autoregressive import shifted
from remask.train import pairs
from remask.train.features import features
from remask.train.opening import Opened
from remask.train.pairs import Sentence, kind_of, log_scores, read_pairs, score_sentences, sentences
from tests.nets.tiny import _SHAPE, ALPHABET, LONGEST, MASK, TEXT, V, make, shake
from tests.oracle import LAWS, causal_net, masked_net

TEXTS = ["w5 w9 w7", "w8 w8 w30 w41 w6", "w59", "w9 w5 w7", "w8 w30 w8 w41 w6", "w5 w9 w7"]


@cache
def words(template=True):
    """One token a word; with the template it adds [CLS] and [SEP], as BERT's does."""
    names = ["[PAD]", "[MASK]", "[SEP]", "[CLS]", *(f"w{i}" for i in range(TEXT, V))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w4"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 2)]
        )
    roles = {"pad_token": "[PAD]", "mask_token": "[MASK]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def model_of(net, template=True):
    return Opened(net, words(template), ALPHABET, {}, "here")


@cache
def electra():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Detector(shake(transformers.ElectraForPreTraining(transformers.ElectraConfig(**_SHAPE))))


@torch.no_grad()
def one_by_one(model, ids, scored):
    """The definition, with plain transformers: full logits, one mask at a time."""
    total = 0.0
    for i in range(len(ids)):
        if scored[i]:
            seen = torch.tensor([ids])
            seen[0, i] = MASK
            logits = model(input_ids=seen).logits[0, i].double()
            logits[MASK] = -torch.inf
            total += float(logits.log_softmax(0)[ids[i]])
    return total


# ---- masked nets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [True, False], ids=["template", "end"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "remask-modernbert"])
def test_pseudo_log_likelihood_is_its_definition(family, template):
    net = make(family)
    found = score_sentences(model_of(net, template), TEXTS)
    for text, score in zip(TEXTS, found.tolist()):
        ids = [int(word[1:]) for word in text.split()]
        scored = [True] * len(ids) + [False]
        ids = [*ids, ALPHABET.end]
        if template:
            ids, scored = [3, *ids], [False, *scored]
        assert score == pytest.approx(one_by_one(net.model, ids, scored), rel=1e-5, abs=1e-4)


def test_the_net_of_the_library_too():
    """Its own tokenizer: bytes, and the end token behind them."""
    tokenizer = byte_tokenizer()
    alphabet = Alphabet(len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id, 2, frozenset(range(4)))
    net = encoder.build("tiny", alphabet, 32)
    model = Opened(net, tokenizer, alphabet, {}, "here")
    (score,) = score_sentences(model, ["So it is."]).tolist()
    ids = [byte + 4 for byte in b"So it is."]
    assert score == pytest.approx(one_by_one(net.model, [*ids, 2], [True] * 9 + [False]), rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "remask-modernbert-decoder", "detector"])
def test_no_score_depends_on_its_batch(family):
    model = model_of(electra() if family == "detector" else make(family))
    whole = score_sentences(model, TEXTS)
    for batch_tokens in (1, 13, 40):
        torch.testing.assert_close(score_sentences(model, TEXTS, batch_tokens=batch_tokens), whole, rtol=0, atol=1e-5)
    alone = torch.cat([score_sentences(model, [text]) for text in TEXTS])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    assert whole[0] == whole[5], "equal texts are scored once"


def rows_of(oracle):
    return [Sentence(state.tolist(), [True] * oracle.length) for state in oracle.states]


def exact(oracle):
    """Sum over cells of log p(x_i | the rest) from the joint, [S]."""
    joint = oracle.joint.view([oracle.symbols] * oracle.length)
    cells = [(joint / joint.sum(i, keepdim=True)).log().flatten() for i in range(oracle.length)]
    return torch.stack(cells).sum(0)


@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_exact_on_a_law(oracle):
    possible = oracle.joint > 0
    found = log_scores(masked_net(oracle), rows_of(oracle), oracle.alphabet, "masked")
    torch.testing.assert_close(found[possible], exact(oracle)[possible], rtol=1e-10, atol=1e-10)


def test_a_token_left_unmasked_would_show(monkeypatch):
    """The planted twin reads the token that it is asked about."""

    def cheating(net, group, alphabet, batch):
        row, column = group.scored.nonzero(as_tuple=True)
        hidden = net.hidden(group.tokens)[row, column]
        yield -net.nll(hidden, group.tokens[row, column], alphabet.mask), group.number[row]

    monkeypatch.setitem(pairs.SCORERS, "masked", cheating)
    oracle = LAWS["markov_chain"]
    found = log_scores(masked_net(oracle), rows_of(oracle), oracle.alphabet, "masked")
    assert float((found - exact(oracle)).abs().max()) > 1
    net = make("bert")
    (score,) = score_sentences(model_of(net), ["w5 w9 w7"]).tolist()
    true = one_by_one(net.model, [3, 5, 9, 7, 2], [False, True, True, True, False])
    assert abs(score - true) > 0.05


# ---- detectors and causal nets ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_detector_sums_log_sigmoids():
    found = score_sentences(model_of(electra()), TEXTS)
    for text, score in zip(TEXTS, found.tolist()):
        ids = torch.tensor([[3, *(int(word[1:]) for word in text.split()), 2]])
        replaced = electra().model(input_ids=ids).logits[0, 1:-1].double()
        assert score == pytest.approx(float((1 - replaced.sigmoid()).log().sum()), rel=1e-5)


def test_a_causal_net_gives_its_exact_likelihood():
    net = make("remask-modernbert-decoder")
    found = score_sentences(model_of(net, template=False), TEXTS)
    for text, score in zip(TEXTS, found.tolist()):
        tokens = torch.tensor([[int(word[1:]) for word in text.split()]])
        documents = torch.zeros_like(tokens)
        nats = nats_of_cells(net, shifted(tokens, documents, 2), tokens, documents, ALPHABET)
        assert score == pytest.approx(-float(nats.sum()), rel=1e-5)


def test_a_causal_net_opens_with_its_tokenizers_own_token():
    """With a template the text opens with [CLS] and not with the end token as well."""
    net = make("modernbert-decoder")
    (score,) = score_sentences(model_of(net), ["w5 w9 w7"]).tolist()
    log_p = net.model(input_ids=torch.tensor([[3, 5, 9, 7]])).logits[0].double()
    log_p[:, MASK] = -torch.inf
    own = log_p.log_softmax(1)[torch.arange(3), torch.tensor([5, 9, 7])]
    assert score == pytest.approx(float(own.sum().detach()), rel=1e-5)


@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_a_causal_law_gives_the_joint(oracle):
    end = oracle.alphabet.end
    rows = [Sentence([end, *row.ids], [False, *row.scored]) for row in rows_of(oracle)]

    class Short:
        """The law's net wants whole rows: what it sees is one token short of the row with its opening."""

        def hidden(self, tokens):
            return causal_net(oracle).hidden(tokens)

        nll = staticmethod(causal_net(oracle).nll)

    possible = oracle.joint > 0
    found = log_scores(Short(), rows, oracle.alphabet, "causal")
    torch.testing.assert_close(found[possible], oracle.joint[possible].log(), rtol=1e-10, atol=1e-10)


def test_kinds():
    assert [kind_of(make(f)) for f in ("bert", "modernbert-decoder")] == ["masked", "causal"]
    assert kind_of(electra()) == "detector"
    assert set(pairs.KINDS) == set(pairs.SCORERS)


def test_training_mode_comes_back():
    net = make("bert").train()
    score_sentences(model_of(net), TEXTS[:1])
    assert net.training


def test_progress_counts_every_cell():
    seen = []
    score_sentences(model_of(make("bert")), TEXTS, batch_tokens=20, progress=lambda *at: seen.append(at))
    cells = sum(len(text.split()) for text in set(TEXTS))
    assert seen[-1] == (cells, cells)
    assert sorted(seen) == seen


# ---- what cannot be scored -------------------------------------------------------------------------------------------


def test_special_tokens_in_a_text_are_letters():
    assert sentences(byte_tokenizer(), ["[MASK]"], 2)[0].ids == [*(byte + 4 for byte in b"[MASK]"), 2]


def test_sentences_that_are_too_long_are_counted():
    long = " ".join(["w5"] * LONGEST)
    with pytest.raises(BadInput, match=rf"1 of 2 sentences.*{LONGEST} tokens.*has {LONGEST + 2}"):
        score_sentences(model_of(make("bert")), ["w5", long])
    net = make("remask-modernbert-decoder")
    assert len(score_sentences(model_of(net, template=False), [long])) == 1, "nothing follows the last token"


def test_sentences_without_tokens_and_texts_without_an_opening():
    with pytest.raises(BadData, match="no tokens"):
        score_sentences(model_of(make("bert")), ["w5", " "])
    endless = Opened(make("modernbert-decoder"), words(False), ALPHABET._replace(end=None), {}, "here")
    with pytest.raises(BadCheckpoint, match="no end token"):
        score_sentences(endless, ["w5"])
    with pytest.raises(BadInput, match="--batch-tokens"):
        score_sentences(model_of(make("bert")), ["w5"], batch_tokens=0)


# ---- reading ---------------------------------------------------------------------------------------------------------


def record(i, kind="k"):
    return {"sentence_good": f"good {i}", "sentence_bad": f"bad {i}", "UID": kind, "pairID": str(i)}


def test_reading_plain_and_packed(tmp_path):
    text = "\n".join(json.dumps(record(i)) for i in range(3)) + "\n\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (read_pairs(tmp_path / name) for name in ("a.jsonl", "a.jsonl.gz"))
    assert plain == packed
    assert plain[2] == ("good 2", "bad 2", "k")


@pytest.mark.parametrize("most", [1, 3, 4, 7, 100])
def test_at_most_so_many_of_each_kind_evenly(tmp_path, most):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(record(i, "ab"[i % 2 if i < 8 else 0])) for i in range(20)))
    kept = read_pairs(path, most=most)
    numbers = {kind: [int(p.good.split()[1]) for p in kept if p.kind == kind] for kind in "ab"}
    assert [len(numbers[kind]) for kind in "ab"] == [min(most, 16), min(most, 4)]
    assert all(own == sorted(set(own)) for own in numbers.values())
    if most == 4:
        assert numbers["a"] == [0, 8, 12, 16]


# ---- features --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("template", [True, False], ids=["template", "end"])
def test_features_are_means_of_hidden_states(template):
    net = make("bert")
    found = features(model_of(net, template), TEXTS, batch_tokens=11)
    for text, mean, counts in zip(TEXTS, found.hidden, found.counts.to_dense()):
        ids = [int(word[1:]) for word in text.split()]
        row = torch.tensor([[3, *ids, 2] if template else [*ids, 2]])
        states = net.model.bert(input_ids=row)[0][0]
        own = states[1:-1] if template else states[:-1]
        torch.testing.assert_close(mean, own.mean(0), rtol=1e-4, atol=1e-5)
        expected = torch.bincount(torch.tensor(ids), minlength=V).double().log1p()
        torch.testing.assert_close(counts, expected)
    assert found.cut == 0


def test_features_of_pairs():
    model = model_of(make("bert"))
    u, v = features(model, TEXTS[:2]), features(model, TEXTS[1:3])
    found = features(model, TEXTS[:2], TEXTS[1:3])
    expected = torch.cat([u.hidden, v.hidden, (u.hidden - v.hidden).abs(), u.hidden * v.hidden], 1)
    torch.testing.assert_close(found.hidden, expected)
    a, b = u.counts.to_dense(), v.counts.to_dense()
    torch.testing.assert_close(found.counts.to_dense(), torch.cat([a, b, torch.minimum(a, b)], 1))


def test_long_texts_are_cut_and_counted_and_empty_ones_are_zero():
    model = model_of(make("bert"))
    long = " ".join(f"w{5 + i % 50}" for i in range(60))
    found = features(model, [long, " ", "w5"])
    assert found.cut == 1
    kept = features(model, [" ".join(long.split()[: LONGEST - 2])])
    torch.testing.assert_close(found.hidden[0], kept.hidden[0])
    assert not found.hidden[1].any()
    assert found.hidden[2].any()
    with pytest.raises(BadInput, match="no tokens"):
        features(model, [" "])


@pytest.mark.parametrize("family", ["remask-modernbert-decoder", "detector"])
def test_features_of_other_nets(family):
    net = electra() if family == "detector" else make(family)
    found = features(model_of(net), TEXTS)
    assert found.hidden.shape == (6, 32)
    assert found.hidden.isfinite().all()
