"""Planners: what they say of a draft, and that a conditional with one is otherwise itself."""

import pytest
import torch
import transformers

from remask.core.canvas import prompted
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.sampler import run
from remask.core.stream import Stream
from remask.nets.conditional import NetConditional
from remask.nets.convert import as_detector
from remask.nets.detector import Detector
from remask.nets.pair import Pair
from remask.nets.planner import WithPlanner, from_conditional, from_detector
from remask.samplers.p2 import PathPlanning
from tests.nets.tiny import ALPHABET, MAKE, TEXT, gap, make, masked, padding, shake, text, theirs
from tests.oracle import LAWS, Oracle, Watched


def discriminator(seed=0):
    """ELECTRA's, as transformers has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(shake(transformers.ElectraForPreTraining(MAKE["electra"]().config), seed))


def left_out(oracle):
    shape = [oracle.symbols] * oracle.length
    return Oracle(
        oracle.name, oracle.joint.view(shape), oracle.alphabet.mask, oracle.alphabet.end, Visible.LEAVE_ONE_OUT
    )


# ---- what they say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "remask-modernbert"])
def test_another_masked_model_says_log_p_of_the_token_in_place(family):
    net, tokens = make(family), text(3, 9)
    wanted = theirs(net.model, tokens).double()
    wanted[..., ALPHABET.mask] = -torch.inf
    wanted = wanted.log_softmax(2).gather(2, tokens[:, :, None])[:, :, 0]
    score = from_conditional(NetConditional(net, ALPHABET))(tokens)
    assert score.dtype == torch.float64
    assert gap(score, wanted) < 1e-5


def test_a_law_judges_each_token_by_the_rest():
    """Leave one out: p(x_i | the others) = p(x) / the sum over what could stand there."""
    oracle = left_out(LAWS["markov_chain"])
    tokens = oracle.sample(50, 0)
    score = from_conditional(oracle)(tokens).exp()
    joint = oracle.joint.view([oracle.symbols] * oracle.length)
    digits = (tokens[:, :, None] == oracle.ids).long().argmax(2)
    for row, found in zip(digits.tolist(), score):
        wanted = [joint[tuple(row)] / joint[(*row[:i], slice(None), *row[i + 1 :])].sum() for i in range(len(row))]
        assert found.tolist() == pytest.approx([float(value) for value in wanted])


def test_a_detector_says_log_p_that_the_token_is_real():
    net, tokens = discriminator(), text(3, 9)
    logits = theirs(net.model, tokens).double()
    score = from_detector(net)(tokens)
    assert score.dtype == torch.float64
    assert gap(score, (1 / (1 + logits.exp())).log()) < 1e-6
    assert score.std() > 0.1  # it tells them apart


def test_a_detector_sees_no_padding_and_keeps_it_by_rows():
    net, tokens, seen = as_detector(make("bert"), 3).eval(), text(3, 12), padding([12, 5, 8], 12)
    shake(net.model, 4)
    planner = from_detector(net, seen)
    index = torch.tensor([2, 0, 2])
    assert gap(planner.rows(index)(tokens[index]), planner(tokens)[index]) < 1e-6
    assert gap(planner(torch.where(seen, tokens, 7))[1, :5], planner(tokens)[1, :5]) < 1e-6
    assert gap(from_detector(net)(tokens)[1, :5], planner(tokens)[1, :5]) > 1e-3
    assert from_detector(net).rows(index).attend is None


def test_a_judge_must_have_something_to_say_of_written_tokens():
    silent = NetConditional(make("bert"), ALPHABET, visible=Visible.NONE)
    with pytest.raises(BadInput, match="DENOISE or LEAVE_ONE_OUT"):
        from_conditional(silent)


# ---- the wrapper -----------------------------------------------------------------------------------------------------


def test_a_conditional_with_a_planner_is_otherwise_itself():
    net, tokens = NetConditional(make("bert"), ALPHABET), masked(text(4, 8))
    planned, at = WithPlanner(net, from_detector(discriminator())), tokens == ALPHABET.mask
    assert planned.alphabet is net.alphabet
    assert planned.visible is Visible.DENOISE
    assert torch.equal(planned(tokens, at), net(tokens, at))
    assert torch.equal(planned(tokens), net(tokens))
    assert torch.equal(planned.plan(tokens), from_detector(discriminator())(tokens))


def test_rows_and_given_reach_the_conditional_and_rows_the_planner():
    oracle = left_out(LAWS["random_table"])
    watched, judge = Watched(oracle, 4), Watched(oracle, 4)
    planned = WithPlanner(watched, from_conditional(judge))
    tokens, index = oracle.sample(4, 1), torch.tensor([3, 1])
    part = planned.rows(index).given(tokens[index], torch.tensor([2, 0]))
    part(tokens[index])
    part.plan(tokens[index])
    part.plan(tokens[index])
    assert watched.ledger.calls.tolist() == [0, 1, 0, 1]
    assert judge.ledger.calls.tolist() == [0, 2, 0, 2]
    settled = watched.ledger.settled[0]
    assert [part.tolist() for part in settled] == [[3, 1], [2, 0]]
    assert judge.ledger.settled == []
    plain = WithPlanner(watched, lambda tokens: torch.zeros(tokens.shape))  # a function has no rows
    assert plain.rows(index).planner is plain.planner


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tokens: torch.ones(tokens.shape),
        lambda tokens: torch.full(tokens.shape, torch.nan),
        lambda tokens: torch.zeros(len(tokens)),
    ],
    ids=["logits", "nan", "one a row"],
)
def test_scores_that_are_no_log_probabilities_are_refused(wrong):
    oracle = LAWS["copy_pairs"]
    with pytest.raises(BadInput, match="log-probability"):
        WithPlanner(oracle, wrong).plan(oracle.sample(3, 0))


# ---- with a sampler --------------------------------------------------------------------------------------------------


def test_a_pair_drafts_and_judges():
    """ELECTRA's generator writes and its discriminator plans: what stays scored no worse than what is masked again."""
    pair = Pair(make("electra"), discriminator(1)).eval()
    judge, heard = from_detector(pair.discriminator), []

    def listen(tokens):
        heard.append((tokens, judge(tokens)))
        return heard[-1][1]

    planned = WithPlanner(Text(NetConditional(pair.generator, ALPHABET)), listen)
    canvas, before, again = prompted([5, 6], 16, 12, ALPHABET), None, 0
    for state, _ in run(PathPlanning(8), planned, canvas, Stream.of(0, 16)):
        left = state.tokens == ALPHABET.mask
        if left.any():
            draft, score = heard.pop()
            assert torch.equal(state.tokens[~left], draft[~left])
            assert (draft >= TEXT).all()
            kept = torch.where(~left & canvas.unknown, score, torch.inf).amin(1)
            assert (kept >= torch.where(left, score, -torch.inf).amax(1)).all()
            again += 0 if before is None else int((left & (before != ALPHABET.mask)).sum())
        before = state.tokens
    assert not heard
    assert again > 20
    assert not left.any()
    assert (state.tokens[:, :2] == torch.tensor([5, 6])).all()


class Text:
    """A conditional that writes no special token."""

    def __init__(self, inner):
        self.inner, self.alphabet, self.visible = inner, inner.alphabet, inner.visible

    def __call__(self, tokens, at=None):
        log_prob = self.inner(tokens, at).clone()
        log_prob[..., sorted(ALPHABET.special)] = -torch.inf
        return log_prob.log_softmax(-1)

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self
