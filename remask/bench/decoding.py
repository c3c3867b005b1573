"""Is the left-to-right baseline honest? Our greedy decoding against transformers' generate() on the same weights.

Both translate the same batches in turns, from sources to texts; a round's ratio is of times taken next to each other,
and the median round is quoted. generate() runs as it comes, with its cache of keys and values; what may not be written
is taken from it by the cheapest logits processor there is, since its own for that would slow it down. Both must write
the same, but where rounding decides between tokens that are equally probable.
Shapes: B batch, S source length, V vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.nets.t5 import T5Net
from remask.translate.left_to_right import Law, greedy
from remask.translate.parallel import resting

TIE = 1e-3  # nats between tokens that rounding may swap

Texts = list[list[int]]


def race(
    net: T5Net,
    sources: Sequence[Sequence[int]],
    alphabet: Alphabet,
    *,
    batches: Sequence[int] = (1, 32),
    longest: int = 64,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """One record for each batch size: tokens a second of both, ends counted, and the median of the rounds' ratios.

    sources: ids with their ends, in the order of their batches; longest: tokens of a text, its end counted; clock:
    seconds, `time.process_time` where others use the machine. `tied`: texts that part at a tie.
    Raises BadInput for nothing to do, and where the two write different texts.
    """
    if not sources or min(*batches, rounds) < 1:
        raise BadInput("a race came without sources, or with a batch or rounds below 1: give it one of each at least.")
    return [_row(net, sources, alphabet, batch, longest, rounds, clock) for batch in batches]


def _row(
    net: T5Net,
    sources: Sequence[Sequence[int]],
    alphabet: Alphabet,
    batch: int,
    longest: int,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    device = net.model.lm_head.weight.device
    padded = list(_padded(sources, batch, alphabet.pad or 0, device))
    ban = LogitsProcessorList([_Ban(Law(alphabet, device), net.vocabulary)])

    def ours() -> Texts:
        return [row for source, attend in padded for row in greedy(net, source, attend, alphabet, longest).tokens]

    def theirs() -> Texts:
        return [row for source, attend in padded for row in generate(net, source, attend, alphabet, longest, ban)]

    seconds: dict[Callable[[], Texts], list[float]] = {ours: [], theirs: []}
    with resting(net):
        written = ours()
        tied = _compare(net, padded, alphabet, written, theirs())
        for number in range(rounds):
            for arm in (ours, theirs) if number % 2 else (theirs, ours):
                began = clock()
                arm()
                seconds[arm].append(clock() - began)
    tokens = sum(min(len(row) + 1, longest) for row in written)
    ratios = [t / o for o, t in zip(seconds[ours], seconds[theirs])]
    return {
        "batch": batch,
        "tokens": tokens,
        "tokens_per_second": round(tokens / statistics.median(seconds[ours]), 1),
        "generate_tokens_per_second": round(tokens / statistics.median(seconds[theirs]), 1),
        "speed_over_generate": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "tied": tied,
    }


def generate(
    net: T5Net, source: Tensor, attend: Tensor, alphabet: Alphabet, longest: int, ban: LogitsProcessorList
) -> Texts:
    """transformers' own greedy decoding of B sources, without special ids."""
    written = net.model.generate(
        input_ids=source,
        attention_mask=attend.long(),
        decoder_start_token_id=net.start,
        eos_token_id=alphabet.end,
        pad_token_id=alphabet.pad,
        num_beams=1,
        do_sample=False,
        max_new_tokens=longest,
        logits_processor=ban,
    )
    rows = [row[1:] for row in written.tolist()]
    return [row[: row.index(alphabet.end)] if alphabet.end in row else row for row in rows]


class _Ban(LogitsProcessor):
    """What our law never writes, in one kernel."""

    def __init__(self, law: Law, vocabulary: int):
        beyond = torch.arange(law.alphabet.size, vocabulary, device=law.silent.device)
        self.silent = torch.cat([law.silent, beyond])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        return scores.index_fill_(1, self.silent, -torch.inf)


def _padded(
    sources: Sequence[Sequence[int]], batch: int, pad: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of sources, [B, S] int64, and where they are no padding."""
    for begin in range(0, len(sources), batch):
        rows = sources[begin : begin + batch]
        longest = max(map(len, rows))
        source = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
        yield source, source != pad


@torch.no_grad()
def _compare(
    net: T5Net, padded: Sequence[tuple[Tensor, Tensor]], alphabet: Alphabet, ours: Texts, theirs: Texts
) -> int:
    """How many texts part at a tie; BadInput where two part without one."""
    alone = [(source[[row]], attend[[row]]) for source, attend in padded for row in range(len(source))]
    law, tied = Law(alphabet, alone[0][0].device), 0
    for (source, attend), one, other in zip(alone, ours, theirs):
        if one == other:
            continue
        pair = [[*row, alphabet.end] for row in (one, other)]
        place = next(cell for cell, (a, b) in enumerate(zip(*pair)) if a != b)
        reading = net.read(source, attend)
        before = torch.tensor([[net.start, *one[:place]]], device=source.device)
        log_prob = law(reading, reading.hidden(before)[:, -1])[0]
        if abs(float(log_prob[pair[0][place]] - log_prob[pair[1][place]])) > TIE:
            raise BadInput(f"greedy decoding and generate() wrote different texts: {one} and {other}.")
        tied += 1
    return tied
