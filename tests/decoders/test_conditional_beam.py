"""Conditional beam search against brute force: exact posteriors, noisy ones, wrong ones."""

import math
import statistics
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.decoder import Budget, Spoken
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.attributes import All, Ends, Judged, Length, NotEmpty
from remask.decoders.beam import Beam
from remask.decoders.conditional_beam import ConditionalBeam, Ignorant
from tests.decoders.attribute_laws import ATTRIBUTES, END, Exact, Noisy, distractors, mode, random_law, texts

LONGEST = 5


def decode(decoder, model, prompt=(), tokens=LONGEST, nodes=None):
    return decoder(model, [prompt], Stream.of(0), Budget(tokens, nodes))


def found(decoder, model, prompt=(), tokens=LONGEST, nodes=None):
    """Log p of the text that a decoder finds."""
    return float(decode(decoder, model, prompt, tokens, nodes).log_prob)


def exactly(model, attribute, prompt=(), tokens=LONGEST, **rest):
    return ConditionalBeam(
        attribute=attribute, posterior=Exact(model, attribute, tokens, prompt), floor=-math.inf, **rest
    )


def test_with_the_exact_posterior_one_hypothesis_finds_the_mode_that_forced_beams_of_eight_do_not():
    model, text = distractors()
    best = sum(float(model.next_log_probs(tuple(text[:at]))[token]) for at, token in enumerate(text))
    exact = Exact(model, Length(6), 7, state=lambda text: (len(text), text[:1]))
    decoder = ConditionalBeam(beam=1, attribute=Length(6), posterior=exact, floor=-math.inf)
    answer = decode(decoder, model, tokens=7)
    assert answer.canvas.tokens[0].tolist() == text
    assert float(answer.log_prob) == pytest.approx(best, abs=1e-12)
    assert int(answer.info.calls) == 7
    for beam in (1, 2, 4, 8):
        assert found(Beam(beam=beam, length=6), model, tokens=7) < best - 10
    assert found(Beam(beam=11, length=6), model, tokens=7) == pytest.approx(best)  # beyond the rivals it is easy


def test_the_planted_mode_is_the_mode():
    model, text = distractors(rivals=3, short=2, long=4)
    best = sum(float(model.next_log_probs(tuple(text[:at]))[token]) for at, token in enumerate(text))
    assert mode(model, (), Length(4), 5) == pytest.approx(best)


def test_a_twin_that_leaves_the_attribute_out_of_the_score_fails():
    model, text = distractors()
    deaf = ConditionalBeam(beam=8, attribute=Length(6), posterior=Ignorant())
    assert decode(deaf, model, tokens=7).canvas.tokens[0].tolist() != text
    assert found(deaf, model, tokens=7) == pytest.approx(found(Beam(beam=8, length=6), model, tokens=7))


@pytest.mark.parametrize("beam", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_without_a_posterior_it_is_beam_search_with_or_without_a_length(beam, seed):
    model = random_law(seed, size=5)
    anything = ConditionalBeam(beam=beam, attribute=All(()))
    for prompt in ((), (1,), (2, 3)):
        ours, theirs = decode(anything, model, prompt), decode(Beam(beam=beam), model, prompt)
        assert ours.texts(END) == theirs.texts(END)
        assert float(ours.log_prob) == pytest.approx(float(theirs.log_prob), abs=1e-12)
        for length in range(LONGEST):
            forced = ConditionalBeam(beam=beam, attribute=Length(length))
            ours, theirs = decode(forced, model, prompt), decode(Beam(beam=beam, length=length), model, prompt)
            assert ours.texts(END) == theirs.texts(END)
            assert float(ours.log_prob) == pytest.approx(float(theirs.log_prob), abs=1e-12)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_beam_that_holds_everything_finds_every_conditional_mode(name):
    attribute = ATTRIBUTES[name]
    for seed in range(2):
        model = random_law(seed)
        best = mode(model, (1,), attribute, LONGEST)
        for decoder in (exactly(model, attribute, (1,), beam=400), ConditionalBeam(beam=400, attribute=attribute)):
            answer = decode(decoder, model, (1,))
            assert float(answer.log_prob) == pytest.approx(best, abs=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(ATTRIBUTES)),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([None, 5, 9, 20]),
    st.sampled_from([0.0, 2.0]),
)
def test_what_is_found_is_what_it_says(seed, name, beam, top_k, nodes, noise):
    model, attribute = random_law(seed, size=4), ATTRIBUTES[name]
    posterior = Noisy(Exact(model, attribute, 4), noise)
    decoder = ConditionalBeam(beam=beam, top_k=top_k, attribute=attribute, posterior=posterior)
    try:
        answer = decode(decoder, model, tokens=4, nodes=nodes)
    except BadInput as error:
        assert nodes is not None and "nodes" in str(error)
        return
    value, gap = float(answer.log_prob), float(answer.info.gap)
    best = mode(model, (), attribute, 4)
    assert gap == math.inf or best <= value + gap + 1e-9
    assert bool(answer.info.certified) == (gap == 0)
    assert nodes is None or int(answer.info.calls) <= nodes
    assert all(k <= top_k and n <= beam for n, k in posterior.exact.asked)
    if value > -math.inf:
        (text,), ended = answer.texts(END), bool((answer.canvas.tokens == END).any())
        assert attribute(text, ended)
        listed = {(tuple(t), e): p for t, e, p in texts(model, (), 4)}
        assert listed[tuple(text), ended] == pytest.approx(value, abs=1e-12)


def test_the_bound_is_not_idle():
    answers = [decode(ConditionalBeam(beam=2, attribute=Length(3)), random_law(seed)) for seed in range(40)]
    certified = [bool(answer.info.certified) for answer in answers]
    regret = [mode(random_law(seed), (), Length(3), LONGEST) - float(a.log_prob) for seed, a in enumerate(answers)]
    assert 3 <= sum(certified) <= 37
    assert max(regret) > 0.1
    assert all(r <= 1e-9 for r, sure in zip(regret, certified) if sure)


def regrets(beam, noise, laws=24):
    """Nats by which the conditional mode is better than what is found, by law."""
    out = []
    for seed in range(laws):
        model = random_law(seed, size=4, sharp=2.0)
        posterior = Noisy(exact_of(seed, model), noise, seed)
        value = found(ConditionalBeam(beam=beam, attribute=Length(4), posterior=posterior), model)
        out.append(best_of(seed, model) - value)
    return out


KNOWN = {}


def exact_of(seed, model):
    return KNOWN.setdefault(("exact", seed), Exact(model, Length(4), LONGEST))


def best_of(seed, model):
    if ("best", seed) not in KNOWN:
        KNOWN["best", seed] = mode(model, (), Length(4), LONGEST)
    return KNOWN["best", seed]


def rises(curve):
    """Whether the mean of each list is not below that of the one before, within two standard errors."""
    for low, high in pairwise(curve):
        change = [b - a for a, b in zip(low, high)]
        if statistics.fmean(change) < -2 * statistics.stdev(change) / math.sqrt(len(change)) - 1e-9:
            return False
    return True


def test_a_noisy_posterior_costs_more_the_noisier_it_is_and_less_the_wider_the_beam():
    noises, beams = (0.0, 1.0, 4.0), (8, 2, 1)
    table = {(noise, beam): regrets(beam, noise) for noise in noises for beam in beams}
    for beam in beams:
        assert rises([table[noise, beam] for noise in noises])
    for noise in noises:
        assert rises([table[noise, beam] for beam in beams])
    mean = {key: statistics.fmean(values) for key, values in table.items()}
    assert mean[0.0, 1] < 0.5 * mean[4.0, 1]
    assert mean[4.0, 8] < 0.5 * mean[4.0, 1]
    assert mean[0.0, 8] < 1e-2
    blind = [best_of(s, m) - found(Beam(beam=1, length=4), m) for s, m in laws()]
    assert mean[1.0, 1] < statistics.fmean(blind)
    assert not rises([table[4.0, 1], table[0.0, 1]])  # the check can fail


def laws():
    return [(seed, random_law(seed, size=4, sharp=2.0)) for seed in range(24)]


def test_a_posterior_that_is_wrongly_certain_empties_the_beam_only_without_a_floor():
    model = random_law(3)

    def never(prefixes, texts, candidates):
        return torch.full(candidates.shape, -math.inf, dtype=torch.float64)

    attribute = Judged(lambda text, ended: ended and len(text) == 2)
    hard = decode(ConditionalBeam(attribute=attribute, posterior=never, floor=-math.inf), model)
    assert float(hard.log_prob) == -math.inf
    assert hard.texts(END) == [[]]
    assert not bool(hard.info.certified)  # nobody has shown that there is none
    assert float(hard.info.gap) == math.inf
    soft = decode(ConditionalBeam(beam=3, attribute=attribute, posterior=never), model)
    assert len(soft.texts(END)[0]) == 2


def test_a_length_that_no_text_has_is_told_with_certainty():
    model = Spoken(lambda prefix: torch.tensor([0.0, 1.0] if len(prefix) < 2 else [1.0, 0.0]).double().log(), END)
    answer = decode(ConditionalBeam(attribute=Length(3)), model, tokens=9)
    assert float(answer.log_prob) == -math.inf
    assert bool(answer.info.certified)
    assert found(ConditionalBeam(attribute=Length(2)), model, tokens=9) == 0.0


def test_texts_that_the_budget_cuts_may_have_the_attribute():
    model = random_law(5)
    cut = Judged(lambda text, ended: not ended)
    answer = decode(exactly(model, cut, beam=100), model)
    assert len(answer.texts(END)[0]) == LONGEST
    assert float(answer.log_prob) == pytest.approx(mode(model, (), cut, LONGEST), abs=1e-12)
    assert END not in decode(exactly(model, cut, beam=1), model).canvas.tokens


def test_only_the_likeliest_next_tokens_are_asked_about_and_the_end_is_always_looked_at():
    model = random_law(1, size=12)
    posterior = Exact(model, Ends(), 4)
    decode(ConditionalBeam(beam=2, top_k=3, attribute=Ends(), posterior=posterior), model, tokens=4)
    assert posterior.asked == [(1, 3), (2, 3)] or posterior.asked[:2] == [(1, 3), (2, 3)]

    def unlikely_end(prefix):
        return torch.tensor([0.001, *[0.111] * 9]).double().log().log_softmax(0)

    last = Spoken(unlikely_end, END)
    assert found(ConditionalBeam(beam=1, top_k=1, attribute=Length(2)), last) == pytest.approx(
        sum(float(last.next_log_probs(())[k]) for k in (1, 1, END))
    )


def test_equal_hypotheses_go_by_the_id_of_their_tokens():
    model = Spoken(lambda prefix: torch.full((5,), 0.2).double().log(), END)
    assert decode(ConditionalBeam(beam=2, attribute=Length(3)), model).texts(END) == [[1, 1, 1]]
    assert decode(ConditionalBeam(beam=1, attribute=NotEmpty()), model).texts(END) == [[1]]


def test_many_prompts_are_what_each_is_alone():
    model, prompts = random_law(8), [(), (1,), (2, 2), (3, 1, 2)]
    decoder = ConditionalBeam(beam=2, attribute=Length(3))
    together = decoder(model, prompts, Stream.of(0, 4), Budget(LONGEST))
    for row, prompt in enumerate(prompts):
        alone = decode(decoder, model, prompt)
        assert together.texts(END)[row] == alone.texts(END)[0]
        assert together.log_prob[row] == alone.log_prob[0]
        assert together.info.calls[row] == alone.info.calls[0]


def test_a_budget_of_nodes_narrows_the_beam_and_still_finishes():
    model = random_law(2)
    wide = found(ConditionalBeam(beam=30, attribute=Length(4)), model)
    tight = decode(ConditionalBeam(beam=30, attribute=Length(4)), model, nodes=LONGEST)
    assert int(tight.info.calls) <= LONGEST
    assert -math.inf < float(tight.log_prob) <= wide


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConditionalBeam(beam=0), "--beam 1"),
        (lambda: ConditionalBeam(top_k=0), "--top-k 1 or more"),
        (lambda: ConditionalBeam(floor=1.0), "0 or less"),
        (lambda: decode(ConditionalBeam(attribute=Length(LONGEST)), random_law(0)), "6 tokens with its end"),
        (lambda: decode(ConditionalBeam(attribute=Length(3)), random_law(0), nodes=2), "and 2 nodes"),
        (lambda: decode(ConditionalBeam(posterior=lambda p, t, c: c.double()), random_law(0)), "all 0 or less"),
        (lambda: decode(ConditionalBeam(posterior=lambda p, t, c: c[0] * 0.0), random_law(0)), "one log-probability"),
        (lambda: decode(ConditionalBeam(posterior=lambda p, t, c: c * math.nan), random_law(0)), "all 0 or less"),
    ],
)
def test_bad_input_says_what_to_type(make, said):
    with pytest.raises(BadInput, match=said):
        make()
