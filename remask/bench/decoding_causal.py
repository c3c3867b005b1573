"""Is the left-to-right baseline honest? Our batched writing against transformers' generate() on the same weights.

Both draw texts of one length in turns, with their caches of keys and values; a round's ratio is of times taken next to
each other, and the median round is quoted. generate() runs as it comes, with do_sample and no other warper than the
cheapest one that keeps silent what may not be written. That both are the same model is shown with the most probable
token: both must write the same, but where rounding decides between tokens that are equally probable.
Shapes: B batch, P tokens of a prompt, L of a text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from remask.bench.decoding import TIE
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.decoders.batched import write
from remask.nets.causal import CausalNet


def race(
    net: CausalNet,
    prompts: Tensor | None = None,
    *,
    batches: Sequence[int] = (1, 16),
    length: int = 256,
    rounds: int = 5,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """One record for each batch size: tokens a second of both, and the median, least and most of the rounds' ratios.

    prompts: [rows, P] int64, of which a batch takes the first, or None for texts from nothing; length: tokens of every
    text, none of which ends before; clock: seconds, `time.process_time` where others use the machine. `tied`: texts
    that part at a tie when both write the most probable token.
    Raises BadInput for nothing to do, too few prompts, and where the two write different texts.
    """
    if not batches or min(*batches, rounds) < 1:
        raise BadInput("a race came with no batch, or with a batch or rounds below 1: give it one of each at least.")
    if prompts is not None and len(prompts) < max(batches):
        raise BadInput(f"{len(prompts)} prompts came for a batch of {max(batches)}: give as many, or smaller batches.")
    return [
        _row(net, None if prompts is None else prompts[:size], size, length, rounds, seed, clock) for size in batches
    ]


def _row(
    net: CausalNet,
    prompts: Tensor | None,
    batch: int,
    length: int,
    rounds: int,
    seed: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    stream = Stream.of(seed, batch)

    def ours() -> Tensor:
        return write(net, prompts, length, stream, stop=False).tokens

    def theirs() -> Tensor:
        return generate(net, prompts, batch, length, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)

    seconds: dict[Callable[[], Tensor], list[float]] = {ours: [], theirs: []}
    greedy = write(net, prompts, length, stream, temperature=0, stop=False).tokens
    tied = compare(net, prompts, greedy, generate(net, prompts, batch, length, do_sample=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(-1, rounds):
            for arm in (ours, theirs) if number % 2 else (theirs, ours):
                began = clock()
                arm()
                _settled(net.model.device)
                seconds[arm].append(clock() - began)
    mine, other = seconds[ours][1:], seconds[theirs][1:]  # the first round warms up
    ratios = [t / o for o, t in zip(mine, other)]
    tokens = batch * length
    return {
        "batch": batch,
        "tokens": tokens,
        "tokens_per_second": round(tokens / statistics.median(mine), 1),
        "generate_tokens_per_second": round(tokens / statistics.median(other), 1),
        "speed_over_generate": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "tied": tied,
    }


def generate(net: CausalNet, prompts: Tensor | None, batch: int, length: int, **how: Any) -> Tensor:
    """transformers' own texts, [B, L], without prompts; the end token is never written."""
    read = _read(net, prompts, batch)
    written = net.model.generate(
        read,
        attention_mask=torch.ones_like(read),
        max_new_tokens=length,
        pad_token_id=net.end,
        num_beams=1,
        logits_processor=LogitsProcessorList([_Silent(net)]),
        **how,
    )
    return written[:, read.shape[1] :]


class _Silent(LogitsProcessor):
    """What our law never writes, in one kernel."""

    def __init__(self, net: CausalNet):
        rows = int(net.model.get_output_embeddings().weight.shape[0])
        beyond = torch.arange(net.size, rows, device=net.silent.device)
        self.silent = torch.cat([net.silent, beyond, net.silent.new_tensor([net.end])]).unique()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        return scores.index_fill_(1, self.silent, -torch.inf)


def _read(net: CausalNet, prompts: Tensor | None, batch: int) -> Tensor:
    """What stands before the text, [B, 1 or more]."""
    device = net.model.device
    ids = torch.empty(batch, 0, dtype=torch.int64) if prompts is None else prompts
    start = [] if net.start is None else [torch.full((batch, 1), net.start, device=device)]
    return torch.cat([*start, ids.to(device)], 1)


def _settled(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def compare(net: CausalNet, prompts: Tensor | None, ours: Tensor, theirs: Tensor) -> int:
    """How many of the texts [B, L] part at a tie; BadInput where two part without one."""
    before, tied = _read(net, prompts, len(ours)), 0
    for read, one, other in zip(before, ours, theirs):
        if torch.equal(one, other):
            continue
        place = int((one != other).nonzero()[0, 0])
        logits = net.model(input_ids=torch.cat([read, one[:place]])[None], use_cache=False).logits[0, -1]
        log_prob = net.law(logits)
        if not abs(float(log_prob[one[place]] - log_prob[other[place]])) <= TIE:
            raise BadInput(
                f"our writing and generate() part at token {place}: {int(one[place])} and {int(other[place])}."
            )
        tied += 1
    return tied
