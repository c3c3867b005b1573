"""Every row of OBJECTIVES that learns from pairs, and planted bugs that the checks must catch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from remask.core.objective import Loss
from remask.core.stream import Purpose
from remask.nets.encoder_decoder import build
from remask.objectives import OBJECTIVES
from remask.objectives.cmlm import CMLM
from remask.objectives.padir import PaDIR
from remask.objectives.paired import ask, rows_of, text_cells
from remask.objectives.seq2seq import Seq2Seq
from remask.objectives.sundae import SUNDAE
from tests import conformance_objectives, conformance_pairs
from tests.conformance_pairs import PAD, PAIR_CHECKS, TEXT

found = conformance_pairs.objectives()


@pytest.mark.parametrize("check", PAIR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("objective", found.values(), ids=found)
def test_contract(objective, check):
    check(objective)


@pytest.mark.parametrize("name", [name for name in found if " " not in name])
def test_nets_of_ours_learn_from_it(name):
    net = build("tiny", conformance_pairs.ALPHABET, conformance_pairs.LONGEST, causal=found[name].causal)
    conformance_pairs.check_finite(found[name], net=net.train())


def test_every_row_is_held_to_one_contract():
    texts = {label.split()[0] for label in conformance_objectives.objectives()}
    on_pairs = {label.split()[0] for label in conformance_pairs.objectives()}
    assert not texts & on_pairs
    assert texts | on_pairs == set(OBJECTIVES)
    assert on_pairs >= {"cmlm", "padir", "sundae", "seq2seq"}


# ---- planted bugs ----------------------------------------------------------------------------------------------------


class Undecided:
    causal, bounds, writes, law = False, False, True, "none"


@dataclass(frozen=True)
class Infinite(CMLM):
    """Nothing keeps a count from being zero."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(counts=torch.stack([question.at.sum().double(), question.counts[1]]))


@dataclass(frozen=True)
class Mean(CMLM):
    """A mean where the contract wants a sum."""

    def __call__(self, net, question, stream):
        loss = super().__call__(net, question, stream)
        return Loss(tuple(term._replace(total=term.total / len(question.tokens)) for term in loss.terms))


@dataclass(frozen=True)
class LocalCount(SUNDAE):
    """Counts what it is handed, not what the step has."""

    def __call__(self, net, question, stream):
        loss = super().__call__(net, question, stream)
        return Loss((loss.terms[0]._replace(count=question.at.sum()), *loss.terms[1:]))


@dataclass(frozen=True)
class LocalStrata(PaDIR):
    """Spreads the rates over the rows that it sees, not over the global batch."""

    def corrupt(self, batch, stream):
        rows = len(batch.tokens)
        return super().corrupt(batch._replace(slot=torch.arange(rows), slots=rows), stream)


@dataclass(frozen=True)
class Peeks(CMLM):
    """Forgets to hide the first cell."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        tokens = question.tokens.clone()
        tokens[:, 0] = batch.tokens[:, 0]
        return question._replace(tokens=tokens)


@dataclass(frozen=True)
class ShowsNeighbours(SUNDAE):
    """A random token is the token that it replaces, moved on by one."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        moved = TEXT[(torch.searchsorted(TEXT, batch.tokens.clamp(max=int(TEXT[-1]))) + 1) % len(TEXT)]
        return question._replace(tokens=torch.where(question.tokens == batch.tokens, question.tokens, moved))


@dataclass(frozen=True)
class KeepsTooMuch(PaDIR):
    """Shows as many tokens as it replaces, and does not say so."""

    def corrupt(self, batch, stream):
        return PaDIR(score=self.score, keep=self.keep + 0.1).corrupt(batch, stream)


@dataclass(frozen=True)
class ChoosesByToken(CMLM):
    """Masks the cells of one token first."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        at = question.at | (batch.tokens == TEXT[0])
        return question._replace(at=at, weight=at.float())


@dataclass(frozen=True)
class Unshifted(Seq2Seq):
    """The net is shown the token that it is asked for."""

    def corrupt(self, batch, stream):
        return super().corrupt(batch, stream)._replace(tokens=batch.tokens)


def _masks(batch, stream, among):
    """Cells by themselves, half of them, of `among`."""
    at = among & (stream.uniform(0, Purpose.MASK, among.shape[1]) < 0.5)
    tokens = torch.where(at, batch.alphabet.mask, batch.tokens)
    return ask(batch, tokens, at, [at.sum().clamp(min=1), rows_of(batch)])


@dataclass(frozen=True)
class MasksEnds(CMLM):
    def corrupt(self, batch, stream):
        return _masks(batch, stream, batch.tokens != PAD)


@dataclass(frozen=True)
class MasksPadding(CMLM):
    def corrupt(self, batch, stream):
        return _masks(batch, stream, (batch.tokens == PAD) | text_cells(batch))


@dataclass(frozen=True)
class AsksForEnds(SUNDAE):
    """Ends are shown as they are, and asked for all the same."""

    def corrupt(self, batch, stream):
        question, at = super().corrupt(batch, stream), batch.tokens != PAD
        return question._replace(at=at, weight=at.float())


@dataclass(frozen=True)
class CountsPadding(PaDIR):
    def corrupt(self, batch, stream):
        question, cells = super().corrupt(batch, stream), batch.tokens.numel()
        return question._replace(counts=torch.cat([question.counts.new_tensor([cells]), question.counts[1:]]))


@dataclass(frozen=True)
class SharesOfTheWidth(CMLM):
    """n is uniform on 1..width, and what a short target lacks is made up with all of it."""

    def corrupt(self, batch, stream):
        among = torch.ones_like(batch.tokens, dtype=torch.bool)
        wide = batch._replace(tokens=torch.where(among, int(TEXT[0]), PAD))
        at = super().corrupt(wide, stream).at & text_cells(batch)
        return ask(batch, torch.where(at, batch.alphabet.mask, batch.tokens), at, [at.sum(), rows_of(batch)])


class Sighted:
    """A net whose decoder looks at padding, too."""

    def __init__(self, net):
        self.net = net

    def read(self, source, attend):
        reading = self.net.read(source, attend)
        object.__setattr__(reading, "net", self)  # a Reading asks its net to decode
        return reading

    def decode(self, tokens, memory, *, attend=None, sees=None, guide=None):
        return self.net.decode(tokens, memory)

    def __getattr__(self, name):
        return getattr(self.net, name)


@dataclass(frozen=True)
class SeesPadding(CMLM):
    def __call__(self, net, question, stream):
        return super().__call__(Sighted(net), question, stream)


@dataclass(frozen=True)
class WrongSources(CMLM):
    """Row i learns from the source of row i - 1."""

    def __call__(self, net, question, stream):
        return super().__call__(net, question._replace(source=question.source.roll(1, 0)), stream)


@dataclass(frozen=True)
class OthersSources(CMLM):
    """The same mistake before the net."""

    def corrupt(self, batch, stream):
        return super().corrupt(batch._replace(source=batch.source.roll(1, 0)), stream)


@dataclass(frozen=True)
class NoSource(Seq2Seq):
    """Takes text by itself for its own source."""

    def corrupt(self, batch, stream):
        return super().corrupt(batch._replace(source=batch.tokens if batch.source is None else batch.source), stream)


@dataclass(frozen=True)
class NoLength(CMLM):
    def __call__(self, net, question, stream):
        return Loss(super().__call__(net, question, stream).terms[:1])


@dataclass(frozen=True)
class LengthsWithEnds(CMLM):
    """Takes the end for a token of text."""

    def __call__(self, net, question, stream):
        tokens = super().__call__(net, question, stream).terms[0]
        alphabet = question.alphabet._replace(end=-1)
        return Loss((tokens, super().__call__(net, question._replace(alphabet=alphabet), stream).terms[1]))


CAUGHT = [
    (Undecided(), "check_declares", "wants pairs"),
    (Infinite(), "check_finite", "not finite"),
    (Mean(), "check_split", "do not add up"),
    (LocalCount(), "check_split", "another count"),
    (WrongSources(), "check_split", "do not add up"),
    (LocalStrata(), "check_parts_are_asked_the_same", "of a part differs"),
    (LocalStrata(), "check_permuted", "in another order differs"),
    (WrongSources(), "check_permuted", "depends on the order"),
    (Peeks(), "check_no_leak", "show their token"),
    (ShowsNeighbours(), "check_no_leak", "can see the token"),
    (KeepsTooMuch(), "check_no_leak", "show their token"),
    (ChoosesByToken(), "check_no_leak", "depends on the tokens"),
    (Unshifted(), "check_no_leak", "can see the token"),
    (MasksEnds(), "check_ends", "the end counts"),
    (MasksPadding(), "check_ends", "padding counts"),
    (AsksForEnds(), "check_ends", "the end counts"),
    (CountsPadding(), "check_wider", "padding is counted"),
    (SharesOfTheWidth(), "check_wider", "padding changes the question"),
    (SeesPadding(), "check_wider", "padding changes 'cmlm'"),
    (WrongSources(), "check_source", "its own source"),
    (OthersSources(), "check_source", "not those of the batch"),
    (NoSource(), "check_source", "without sources"),
    (NoLength(), "check_lengths", "lengths are learned"),
    (LengthsWithEnds(), "check_lengths", "not -log p"),
]


@pytest.mark.parametrize(("twin", "check", "says"), CAUGHT, ids=lambda value: getattr(type(value), "__name__", None))
def test_planted_bugs_are_caught(twin, check, says):
    with pytest.raises(AssertionError, match=says):
        getattr(conformance_pairs, check)(twin)
