"""What every decoder must satisfy (neighbours: conformance.py for samplers, conformance_objectives.py, ...).

A new row of the table is checked without new code here, but for the fields below. Each check is a function that raises
AssertionError; tests/decoders/test_conformance.py runs them for every row, and shows with planted bugs that each of
them can fail. The model is a small GPT-2 with random weights in float64, and a law by hand for what is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import transformers

from remask.core.decoder import Budget, Decoded
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders import DECODERS
from remask.nets.causal import CausalNet
from tests.decoders.laws import random_law, spoken, texts, written
from tests.nets.tiny import shake

SIZE, END, START, MASK, WINDOW = 9, 2, 3, 1, 24
PROMPTS: tuple[tuple[int, ...], ...] = ((4, 5, 6, 4), (), (7,), (4, 5, 6, 4), (8, 2, 8))
TOKENS = 4
NODES = (1, 2, 3, 4, 6, 9, 14, 40)

OWN_SCORE: dict[str, dict[str, Any]] = {"hidden_state": {"lr": 0.0}}
"""Fields with which a decoder's log p is that of the model as it is."""
OF_NETS = frozenset({"hidden_state"})
"""Decoders that want gradients, and so a net and no law by hand."""


def decoders() -> dict[str, Any]:
    """Every row of the table with its default fields."""
    return {name: DECODERS.load(name)() for name in DECODERS}


@cache
def net() -> CausalNet:
    """A random GPT-2 whose texts end sooner or later."""
    shape = {"vocab_size": SIZE, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": WINDOW + 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=START, eos_token_id=END))
        return CausalNet(shake(model, scale=0.25).double(), END, START, [MASK])


def decoded(
    decoder: Any, prompts: Sequence[Sequence[int]] = PROMPTS, nodes: int | None = None, rows: Any = None
) -> Decoded:
    """Texts of the net; rows: of the stream."""
    rows = torch.arange(len(prompts)) if rows is None else torch.tensor(rows)
    return decoder(net(), prompts, Stream.of(5, rows), Budget(TOKENS, nodes))


@torch.no_grad()
def score(prompt: Sequence[int], text: Sequence[int]) -> float:
    """Log p of a text, all cells at once and nothing kept, the mask having no probability."""
    logits = net().model(input_ids=torch.tensor([[START, *prompt, *text]]), use_cache=False).logits[0]
    logits[:, MASK] = -torch.inf
    log_prob = logits.log_softmax(1)[len(prompt) : -1]
    return float(log_prob.gather(1, torch.tensor(text)[:, None]).sum())


def check_weights(decoder: Any) -> None:
    """No weight is changed, and no gradient or mode is left behind."""
    module = net().model
    before = [(p.detach().clone(), p.requires_grad) for p in module.parameters()]
    decoded(decoder, PROMPTS[:2])
    for (weight, wants), after in zip(before, module.parameters()):
        assert torch.equal(weight, after), "a weight was changed"
        assert after.requires_grad == wants, "a weight wants gradients as it did not before"
        assert after.grad is None, "a gradient was left behind"
    assert not any(part.training for part in module.modules()), "the model was left in training"


def check_canvas(decoder: Any) -> None:
    """Prompts stand in front, frozen; texts after them, open; the rest is frozen ends."""
    for prompt, tokens, frozen in zip(PROMPTS, *decoded(decoder).canvas):
        size = len(prompt)
        assert tokens[:size].tolist() == list(prompt), "a prompt was changed"
        assert frozen[:size].all(), "a prompt is not frozen"
        rest = frozen[size:].tolist()
        assert rest == sorted(rest), "an open cell stands after a frozen one"
        assert (tokens[size:][frozen[size:]] == END).all(), "padding is no end token"


def check_ends(decoder: Any) -> None:
    """A text is over at its end token, which comes once and last, or at the budget."""
    for text in written(decoded(decoder)):
        assert len(text) <= TOKENS, "a text is longer than the budget"
        assert END not in text[:-1], "a text goes on after its end"
        assert text[-1:] == [END] or len(text) == TOKENS, "a text neither ended nor reached the budget"
        assert MASK not in text, "a silent id was written"


def check_score(decoder: Any) -> None:
    """log_prob is the model's own, unrenormalised."""
    found = decoded(decoder)
    for prompt, text, log_prob in zip(PROMPTS, written(found), found.log_prob.tolist()):
        assert math.isclose(log_prob, score(prompt, text), abs_tol=1e-6), "log p is not the model's"


def check_batched(decoder: Any) -> None:
    """What is found for a prompt does not depend on the prompts beside it, their number and order."""
    together = decoded(decoder)
    order = [3, 0, 4]
    moved = decoded(decoder, [PROMPTS[row] for row in order], rows=order)
    for place, row in enumerate(order):
        assert written(moved)[place] == written(together)[row], "other prompts beside it change a text"
    for row, prompt in enumerate(PROMPTS):
        alone = decoded(decoder, [prompt], rows=[row])
        assert written(alone)[0] == written(together)[row], "a prompt alone has another text"
        for a, b in zip((alone.log_prob, *alone.info), (together.log_prob, *together.info)):
            assert torch.allclose(a[0].double(), b[row].double(), rtol=0, atol=0, equal_nan=True), "or other numbers"


def check_repeats(decoder: Any) -> None:
    """The same seed gives the same texts, and torch's own generator is left alone."""
    state = torch.random.get_rng_state()
    first = decoded(decoder)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    torch.rand(3)
    assert written(decoded(decoder)) == written(first), "the same seed gave another text"


def check_budget(decoder: Any) -> None:
    """No more prefixes are read than may be; a budget with a node for each token of a text holds one."""
    for nodes in NODES:
        try:
            calls = decoded(decoder, PROMPTS[:3], nodes).info.calls
        except BadInput:
            assert nodes < TOKENS, "a budget that holds a text was refused"
            continue
        assert calls.max() <= nodes, "more prefixes were read than the budget holds"
        assert calls.min() >= 1, "a text came from nothing"


def check_told(decoder: Any) -> None:
    """A certificate has no gap, a gap is no less than 0 or is not told, and no text that ends beats both."""
    for seed in range(3) if decoder_name(decoder) not in OF_NETS else ():
        law = random_law(seed, 3, 2.0, ending=0.3)
        best = max(one.log_prob for one in texts(law, 0, TOKENS) if one.tokens[-1] == 0)
        for nodes in (None, 4, 9):
            found = decoder(spoken(law), [()], Stream.of(0, 1), Budget(TOKENS, nodes))
            gap = float(found.info.gap)
            assert bool(found.info.certified) == (gap == 0), "a certificate with a gap, or no gap without one"
            assert math.isnan(gap) or (gap >= 0 and best <= float(found.log_prob) + gap + 1e-9), "the gap is too small"


def decoder_name(decoder: Any) -> str:
    """The row of a decoder, "" for one that has none."""
    return next((name for name, place in DECODERS.items() if place.endswith(f":{type(decoder).__name__}")), "")


DECODER_CHECKS = (
    check_weights,
    check_canvas,
    check_ends,
    check_score,
    check_batched,
    check_repeats,
    check_budget,
    check_told,
)
