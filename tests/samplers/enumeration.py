"""Small laws with known numbers, and the law of a sampler by enumeration. Shapes: S states."""

from functools import cache

import torch

from remask.core.canvas import blank
from remask.core.certainty import CERTAINTIES
from remask.core.sampler import run, sample, start
from remask.core.stream import Stream
from tests.oracle import Oracle, Watched, copy_pairs

BLIND = [name for name in CERTAINTIES if name != "drawn"]

A = [0.55, 0.40, 0.03, 0.02]  # largest maximum 0.55; margin 0.15; entropy 0.879
B = [0.50, 0.17, 0.17, 0.16]  # largest margin 0.33; entropy 1.242
C = [0.49, 0.49, 0.01, 0.01]  # smallest entropy 0.791; margin 0

PAIR = copy_pairs(2, 3, seed=1, mask=1, end=0)
TOP = float(PAIR(torch.full((1, 2), PAIR.alphabet.mask))[0, 0].exp().max())
AGREE = float((PAIR(torch.full((1, 2), PAIR.alphabet.mask))[0, 0].exp() ** 2).sum())  # two draws alike by chance


def broken(sampler, oracle, rows=8000, seed=0):
    """Share of rows in which some cell is not the copy of the one before it, and the calls a row."""
    watched = Watched(oracle, rows)
    tokens = sample(sampler, watched, blank(rows, oracle.length, oracle.alphabet), Stream.of(seed, rows)).tokens
    share = float((tokens[:, ::2] != tokens[:, 1::2]).any(1).double().mean())
    return share, watched.ledger.calls.unique().tolist()


def by_itself(*cells, mask=0, end=1):
    """Independent cells, each with a law of its own (a list of as many probabilities as there are symbols)."""
    joint = torch.ones(())
    for cell in cells:
        joint = joint[..., None] * torch.tensor(cell, dtype=torch.float64)
    return Oracle("by itself", joint, mask, end)


def coins(*tops):
    """Independent cells of two symbols, the first with these probabilities."""
    return by_itself(*([top, 1 - top] for top in tops))


def openings(sampler, oracle):
    """The cells that every step opens in a blank row."""
    found = run(sampler, oracle, blank(1, oracle.length, oracle.alphabet), Stream.of(0, 1))
    return [torch.nonzero(info.changed[0])[:, 0].tolist() for _, info in found]


@cache
def total_correlation(oracle, context, cells):
    """Sum of H(x_i) less H(x_U), i in U = `cells`, given the visible cells of a context (a tuple): nats."""
    law = oracle.posterior(torch.tensor(context))

    def nats(axes):
        place = (oracle.states[:, axes] * oracle.alphabet.size ** torch.arange(len(axes))).sum(1)
        mass = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add(0, place, law)
        return -float(torch.xlogy(mass, mass).sum())

    return sum(nats([cell]) for cell in cells) - nats(list(cells))


def enumerated(sampler, oracle, seed=0):
    """The law [S] of a sampler that chooses cells by the distributions only: every state is walked towards at once.

    With it the nats that its parallel steps ignore: the expected sum of their total correlations. All rows share one
    seed, so that noise is a function of the step.
    """
    states = oracle.states
    state = start(blank(*states.shape, oracle.alphabet))
    stream = Stream.of(seed, torch.zeros_like(state.step))
    log_law, ignored = torch.zeros(len(states), dtype=torch.float64), 0.0
    while not state.done.all():
        after, info = sampler.step(stream, state, oracle)
        log_prob = oracle(state.tokens).gather(2, states[:, :, None])[:, :, 0]
        log_law += torch.where(info.changed, log_prob, 0.0).sum(1)
        for row in torch.nonzero((oracle.joint > 0) & (info.changed.sum(1) > 1))[:, 0].tolist():
            cells = tuple(torch.nonzero(info.changed[row])[:, 0].tolist())
            ignored += float(oracle.joint[row]) * total_correlation(oracle, tuple(state.tokens[row].tolist()), cells)
        state = after._replace(tokens=torch.where(info.changed, states, state.tokens))
    return log_law.exp(), ignored


def divergence(law, other):
    """KL(law || other), nats."""
    return float((torch.xlogy(law, law) - torch.xlogy(law, other)).sum())
