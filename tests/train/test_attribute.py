"""Classifiers of attributes on a tiny model whose every text can be listed: calibrated against the exact posterior."""

import json
import math
import statistics
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import transformers

from remask.core.decoder import Budget, Prefixes, Spoken
from remask.core.errors import BadCheckpoint, BadInput, Diverged, OutputExists
from remask.core.stream import Stream
from remask.decoders.attributes import All, Avoids, Ends, Judged, Length, NoRepeats, NotEmpty
from remask.decoders.beam import Beam
from remask.decoders.conditional_beam import ConditionalBeam, HeadPosterior
from remask.nets.causal import CausalNet
from remask.nets.causal_encoder_decoder import CausalEncoderDecoder
from remask.train import attribute_samples
from remask.train.attribute import AttributeTraining, train_attribute
from remask.train.attribute_directory import FACTS, WEIGHTS, fingerprint, load_attribute
from remask.train.attribute_samples import draw, samples, visits
from tests.decoders.attribute_laws import END, Exact, mode
from tests.nets import tiny
from tests.nets.tiny import shake
from tests.translate import causal

START, WORDS, LONGEST = 5, (1, 2, 3, 4), 6
PROMPTS = ((), (1,), (2, 3))
TRAINING = AttributeTraining(
    samples=2400, tokens=LONGEST, exact=4, inner=48, epochs=12, batch=256, learning_rate=4e-3, held_out=0.25
)
REPEATS = All((Ends(), NoRepeats(1)))


def small(seed=0):
    """A random GPT-2 of four words, an end and a start, in float64."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=6, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=START, eos_token_id=END
    )
    model = shake(transformers.GPT2LMHeadModel(config), seed, 0.5).double()
    return CausalNet(model, END, START, silent=(START,))


MODEL = small()  # one whose first tokens tell how long a text will be: forced beams miss its modes


def tabled(model, prompt):
    """All that a model says after a prompt, by prefix."""
    laws, prefixes, begun = {}, model.begin(prompt), [()]
    for size in range(LONGEST):
        laws.update(zip(begun, prefixes.log_prob))
        if size < LONGEST - 1:
            index = torch.arange(len(begun)).repeat_interleave(len(WORDS))
            prefixes = model.extend(model.rows(prefixes, index), torch.tensor(WORDS).repeat(len(begun)))
            begun = [(*text, word) for text in begun for word in WORDS]
    return Spoken(laws.__getitem__, END)


LAWS = {prompt: tabled(MODEL, prompt) for prompt in PROMPTS}


class Corpus:
    """The states of one model under texts of another: what a corpus is to a model."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.model = reader, writer, reader.model
        self.size, self.end, self.window = reader.size, reader.end, reader.window

    def _both(self, states, laws):
        return Prefixes(laws.log_prob, states.hidden, (states, laws))

    def begin(self, prompt):
        return self._both(self.reader.begin(prompt), self.writer.begin(prompt))

    def extend(self, prefixes, tokens):
        return self._both(*(m.extend(p, tokens) for m, p in zip((self.reader, self.writer), prefixes.cache)))

    def rows(self, prefixes, index):
        return self._both(*(m.rows(p, index) for m, p in zip((self.reader, self.writer), prefixes.cache)))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Classifiers of length and of an ending without repeats, and where they are."""
    out = tmp_path_factory.mktemp("attributes")
    length = train_attribute(MODEL, Length(), out / "length", TRAINING, PROMPTS)
    repeats = train_attribute(MODEL, REPEATS, out / "repeats", TRAINING, PROMPTS)
    return SimpleNamespace(out=out, length=length, repeats=repeats)


def posterior(one, attribute):
    """What a fitted head says of an attribute."""
    return HeadPosterior(one.head, attribute.outcomes(LONGEST, TRAINING.exact), LONGEST)


def brier(believed, attribute):
    """The expected Brier scores (of what is believed, of the exact posterior) over the model's own prefixes."""
    excess, least, total = 0.0, 0.0, 0.0
    for prompt in PROMPTS:
        law, weight, texts, prefixes = LAWS[prompt], torch.ones(1).double(), [()], MODEL.begin(prompt)
        exact = Exact(law, attribute, LONGEST)
        for _ in range(LONGEST - 2):
            candidates = torch.tensor(WORDS).expand(len(texts), -1)
            rows = torch.tensor(texts, dtype=torch.int64).view(len(texts), len(texts[0]))
            q = exact(prefixes, rows, candidates).exp()
            p = believed(prefixes, rows, candidates).exp()
            asked = [[s is None for s in attribute.settled(list(text), WORDS)] for text in texts]
            reach = weight[:, None] * prefixes.log_prob[:, WORDS].exp()
            chance = reach * torch.tensor(asked)
            excess += float((chance * (p - q) ** 2).sum())
            least += float((chance * q * (1 - q)).sum())
            total += float(chance.sum())
            index = torch.arange(len(texts)).repeat_interleave(len(WORDS))
            prefixes = MODEL.extend(MODEL.rows(prefixes, index), candidates.flatten())
            texts, weight = [(*text, word) for text in texts for word in WORDS], reach.flatten()
    return (excess + least) / total, least / total


def test_the_model_is_not_trivial():
    chances = [math.exp(mode(LAWS[()], (), Length(n), LONGEST)) for n in range(LONGEST)]
    assert min(chances) > 1e-6
    assert max(chances) < 0.5


@pytest.mark.parametrize("attribute", [Length(2), Length(4), Ends()], ids=["2", "4", "ends"])
def test_a_classifier_of_lengths_is_nearly_as_good_as_the_exact_posterior(fitted, attribute):
    ours, best = brier(posterior(fitted.length, attribute), attribute)
    assert best < ours < 1.1 * best


def test_a_classifier_of_yes_and_no_is_nearly_as_good_as_the_exact_posterior(fitted):
    ours, best = brier(posterior(fitted.repeats, REPEATS), REPEATS)
    assert best < ours < 1.1 * best
    told = fitted.repeats.metrics["brier"]
    assert told.value == pytest.approx(ours, abs=3 * told.stderr)
    assert fitted.repeats.metrics["calibration_error"].value < 0.1
    assert sum(b.rows for b in fitted.repeats.reliability.bins) > 200


def test_a_twin_that_learned_from_a_corpus_is_not(fitted, tmp_path):
    corpus = Corpus(MODEL, small(2))
    twin = train_attribute(corpus, REPEATS, tmp_path / "twin", TRAINING, PROMPTS)
    ours, best = brier(posterior(fitted.repeats, REPEATS), REPEATS)
    theirs, _ = brier(posterior(twin, REPEATS), REPEATS)
    assert theirs - best > 5 * (ours - best)


def test_before_it_has_learned_it_says_how_often_each_outcome_comes(tmp_path):
    """A classifier that starts from base rates is never much worse than these."""
    still = AttributeTraining(**{**vars(TRAINING), "epochs": 1, "learning_rate": 1e-12})
    one = train_attribute(MODEL, Length(), tmp_path / "still", still, PROMPTS)
    assert one.metrics["brier_skill"].value == pytest.approx(0, abs=0.01)


def share_of_modes(make):
    """How many conditional modes a decoder finds, and its mean regret in nats, over lengths and prompts."""
    hits, regret = [], []
    for prompt in PROMPTS:
        for n in range(1, LONGEST - 1):
            best = mode(LAWS[prompt], (), Length(n), LONGEST)
            value = float(make(n)(MODEL, [prompt], Stream.of(0), Budget(LONGEST)).log_prob)
            hits.append(abs(value - best) < 1e-9)
            regret.append(best - value)
    return statistics.fmean(hits), statistics.fmean(regret)


def test_most_conditional_modes_are_found(fitted):
    def conditional(beam):
        return lambda n: ConditionalBeam(beam=beam, attribute=Length(n), posterior=posterior(fitted.length, Length(n)))

    ours = {beam: share_of_modes(conditional(beam)) for beam in (1, 2, 4)}
    forced = {beam: share_of_modes(lambda n, beam=beam: Beam(beam=beam, length=n)) for beam in (1, 2)}
    assert ours[1][0] >= forced[1][0]
    assert ours[1][1] < forced[1][1]
    assert ours[4][0] >= ours[1][0]
    assert ours[2][0] > 0.9
    assert ours[2][1] < 0.1 * forced[2][1]


def test_draws_are_the_models_and_do_not_depend_on_the_batch(monkeypatch):
    (one,) = samples(MODEL, [()], 200, LONGEST, 7)
    monkeypatch.setattr(attribute_samples, "ROWS", 64)
    parts = list(samples(MODEL, [()], 200, LONGEST, 7))
    assert len(parts) == 4
    assert [text for part in parts for text in part.texts] == one.texts


def test_drawn_texts_follow_the_models_law(monkeypatch):
    monkeypatch.setattr(attribute_samples, "ROWS", 4000)
    (drawn,) = samples(MODEL, [(1,)], 4000, LONGEST, 1)
    seen = Counter((len(text), ended) for text, ended in zip(drawn.texts, drawn.ended))
    law, excess, cells = LAWS[1,], 0.0, 0
    for n in range(LONGEST + 1):
        attribute = Length(n) if n < LONGEST else Judged(lambda text, ended: not ended)
        expected = 4000 * Exact(law, attribute, LONGEST).worth(())
        got = seen[n, n < LONGEST]
        if expected > 5:
            excess, cells = excess + (got - expected) ** 2 / expected, cells + 1
    assert cells >= 5
    assert excess < 25  # chi-square with at most 6 degrees of freedom: p about 3e-4


def test_every_prefix_is_an_example_with_its_own_state():
    (drawn,) = samples(MODEL, [(2, 3)], 50, LONGEST, 3)
    pairs = sorted(zip(drawn.row.tolist(), drawn.written.tolist()))
    # a token that ends a text, or that the budget cuts it with, is no question any more
    expected = [(row, n) for row, t in enumerate(drawn.texts) for n in range(1, min(len(t), LONGEST - 1) + 1)]
    assert pairs == expected
    for row, written, hidden in list(zip(drawn.row.tolist(), drawn.written.tolist(), drawn.hidden))[::9]:
        alone = MODEL.begin((2, 3, *drawn.texts[row][: written - 1]))
        assert torch.allclose(hidden.double(), alone.hidden[0], atol=1e-5)


def test_prompts_share_the_samples():
    parts = list(samples(MODEL, PROMPTS, 10, LONGEST, 0))
    assert [len(part.texts) for part in parts] == [4, 3, 3]
    assert [len(part.texts) for part in samples(MODEL, PROMPTS, 2, LONGEST, 0)] == [1, 1]


def test_prefixes_of_a_beam_are_finished_by_the_model():
    search = ConditionalBeam(beam=2, attribute=Length(4))
    steps = [step.texts.tolist() for step in search.search(MODEL, (), Budget(LONGEST)) if len(step.texts)][1:]
    found = list(visits(MODEL, search, [()], LONGEST, 0))
    assert [[text[: len(s[0])] for text in part.texts] for part, s in zip(found, steps, strict=True)] == steps
    assert all((part.written > len(s[0])).all() for part, s in zip(found, steps))  # each beside a drawn token
    prefix = tuple(steps[1][0])
    many = MODEL.rows(MODEL.begin(prefix), torch.zeros(2000, dtype=torch.int64))
    drawn = draw(MODEL, many, [prefix] * 2000, Stream.of(1, 2000), LONGEST)
    exact = Exact(LAWS[()], Ends(), LONGEST).worth(prefix)
    share = statistics.fmean(drawn.ended)
    assert share == pytest.approx(exact, abs=3.5 * math.sqrt(exact * (1 - exact) / 2000))


def test_beam_prefixes_are_learned_from_and_never_weighed(tmp_path):
    short = AttributeTraining(samples=60, tokens=LONGEST, epochs=1, inner=8)
    plain = train_attribute(MODEL, Length(), tmp_path / "plain", short)
    more = train_attribute(MODEL, Length(), tmp_path / "more", AttributeTraining(**{**vars(short), "beam": 3}))
    assert more.facts["examples"] > plain.facts["examples"]
    assert more.drawn == plain.drawn == 60
    assert more.metrics["brier"].n == plain.metrics["brier"].n


def test_a_saved_classifier_says_the_same_and_the_model_is_untouched(fitted):
    before = fingerprint(MODEL)
    again = load_attribute(fitted.out / "length", MODEL, Length(3))
    prefixes, texts, candidates = MODEL.begin((1,)), torch.empty(1, 0, dtype=torch.int64), torch.tensor([WORDS])
    assert torch.equal(
        again(prefixes, texts, candidates), posterior(fitted.length, Length(3))(prefixes, texts, candidates)
    )
    part = load_attribute(fitted.out / "length", MODEL, All((Length(3), Avoids(((1,),)))))
    assert torch.equal(part(prefixes, texts, candidates), again(prefixes, texts, candidates))
    assert fingerprint(MODEL) == before == json.loads((fitted.out / "length" / FACTS).read_text())["model"]
    assert sorted(path.name for path in (fitted.out / "length").iterdir()) == sorted([FACTS, WEIGHTS])


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: CausalNet(tiny.make("modernbert-decoder").model, 2, 3, [tiny.MASK]),
        lambda: CausalNet(tiny.make("remask-modernbert-decoder").model, 2, 3, [tiny.MASK]),
        lambda: CausalEncoderDecoder(causal.net(2), causal.ALPHABET, 20),
    ],
    ids=["modernbert-decoder", "remask-modernbert-decoder", "t5"],
)
def test_every_kind_of_model_can_have_one(tmp_path, make_model):
    model, prompts = make_model(), [(5, 6), (7,)]
    short = AttributeTraining(samples=100, tokens=8, epochs=2, inner=8)
    odd = Judged(lambda text, ended: len(text) > 0 and text[0] % 2 == 1, "odd")
    one = train_attribute(model, odd, tmp_path / "odd", short, prompts)
    decoder = ConditionalBeam(beam=40, attribute=odd, posterior=load_attribute(tmp_path / "odd", make_model(), odd))
    decoded = decoder(model, prompts, Stream.of(0, 2), Budget(8))
    assert 0 < one.satisfied < one.drawn
    assert all(text[0] % 2 == 1 for text in decoded.texts(model.end))
    assert all(decoded.log_prob > -math.inf)


def test_another_model_or_attribute_is_refused(fitted):
    with pytest.raises(BadCheckpoint, match="another model"):
        load_attribute(fitted.out / "length", small(5), Length(3))
    quieter = CausalNet(MODEL.model, END, START, silent=(START, 4))  # the same weights, another law
    with pytest.raises(BadCheckpoint, match="another model"):
        load_attribute(fitted.out / "length", quieter, Length(3))
    with pytest.raises(BadInput, match=r"Length.*NoRepeats"):
        load_attribute(fitted.out / "length", MODEL, NoRepeats(2))
    with pytest.raises(BadInput, match="no hidden states"):
        train_attribute(LAWS[()], Ends(), fitted.out / "none", TRAINING)


def test_texts_longer_than_those_it_learned_from_are_refused(fitted):
    known = load_attribute(fitted.out / "length", MODEL, Length())
    prefixes, candidates = MODEL.begin(()), torch.tensor([WORDS])
    known(prefixes, torch.ones(1, LONGEST - 2, dtype=torch.int64), candidates)
    with pytest.raises(BadInput, match="budget of 6 tokens"):
        known(prefixes, torch.ones(1, LONGEST - 1, dtype=torch.int64), candidates)


def test_a_damaged_directory_is_refused(fitted, tmp_path):
    with pytest.raises(BadCheckpoint, match="not an attribute's classifier"):
        load_attribute(tmp_path, MODEL, Length(3))
    for name in (FACTS, WEIGHTS):
        (tmp_path / name).write_bytes((fitted.out / "length" / name).read_bytes())
    load_attribute(tmp_path, MODEL, Length(3))
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-40])
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_attribute(tmp_path, MODEL, Length(3))
    (tmp_path / FACTS).write_text("{}")
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_attribute(tmp_path, MODEL, Length(3))


def test_nothing_of_others_is_overwritten(fitted, tmp_path):
    short = AttributeTraining(samples=40, tokens=LONGEST, epochs=1, inner=8)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match="another --out"):
        train_attribute(MODEL, Length(), tmp_path, short)
    train_attribute(MODEL, Length(), tmp_path / "own", short)
    with pytest.raises(OutputExists, match="--overwrite"):
        train_attribute(MODEL, Length(), tmp_path / "own", short)
    again = train_attribute(MODEL, Length(), tmp_path / "own", short, overwrite=True)
    other = train_attribute(MODEL, Length(), tmp_path / "other", short)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    state, same = again.head.state_dict(), other.head.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)  # one seed, one classifier


def test_an_attribute_that_no_sample_has_says_how_many_were_drawn(tmp_path):
    short = AttributeTraining(samples=120, tokens=LONGEST)
    never = Judged(lambda text, ended: False)
    with pytest.raises(BadInput, match="none of 120 texts drawn"):
        train_attribute(MODEL, never, tmp_path / "never", short)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("attribute", "change", "error", "said"),
    [
        (NotEmpty(), {}, BadInput, "no classifier is needed"),
        (Length(LONGEST), {}, BadInput, "7 tokens with its end"),
        (Ends(), {"tokens": 30}, BadInput, "type fewer --tokens"),
        (Ends(), {"samples": 2}, BadInput, "too few"),
        (Ends(), {"learning_rate": 1e30}, Diverged, "--learning-rate"),
    ],
)
def test_what_cannot_be_fitted_says_why(tmp_path, attribute, change, error, said):
    short = AttributeTraining(**{"samples": 40, "tokens": LONGEST, "epochs": 2, "inner": 8, **change})
    with pytest.raises(error, match=said):
        train_attribute(MODEL, attribute, tmp_path / "out", short)


@pytest.mark.parametrize("field", ["samples", "tokens", "epochs", "batch", "learning_rate", "inner", "exact"])
def test_settings_are_checked(field):
    with pytest.raises(BadInput, match=f"--{field.replace('_', '-')} came as 0"):
        AttributeTraining(**{field: 0})


def test_shares_and_beams_are_checked():
    with pytest.raises(BadInput, match="--held-out"):
        AttributeTraining(held_out=1.0)
    with pytest.raises(BadInput, match="--beam"):
        AttributeTraining(beam=-1)
