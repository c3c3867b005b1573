"""Decoding from left to right: the baseline of every parallel decoder, greedy or with a beam, keys and values kept.

Both write texts, so a special id other than the end is never chosen: not the mask, whose probability is zero as it is
in training, and not the pad, the unknown and their like, whose probability is the model's own but is given to nobody.
log p is thus that of the training objective. A text is over at its end token, which is scored but not printed, or at
`longest` tokens. Whoever is over leaves the batch; the sources are read once.

The beam (Sutskever et al. 2014, arXiv 1409.3215, section 3.2) ranks finished hypotheses by log p / n^penalty, n being
tokens with the end (Wu et al. 2016, arXiv 1609.08144, section 7, in the form that transformers has). Of the best
2 `width` continuations those that end among the first `width` are finished, and the best `width` of the others go on.
A source is done when nothing that goes on can beat its best finished hypothesis: log p only falls, so a hypothesis of
log p s ends with at most s / longest^penalty, or with s / (n + 1)^penalty where the penalty is not positive. This finds
what transformers finds with early_stopping="never", without waiting for `width` finished ones.
Shapes: B sources, S source length, N sources still written, K their hypotheses, C candidates, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput
from remask.core.net import EncoderDecoder
from remask.translate.outcome import Outcome
from remask.translate.parallel import resting

STEEPEST = 10.0  # length penalties beyond it are slips of the hand


class LeftToRight(EncoderDecoder, Protocol):
    """A causal EncoderDecoder that goes on where it stopped; its readings have a `memory`."""

    @property
    def start(self) -> int:
        """The id that it reads before the first token."""
        ...

    def step(self, tokens: Tensor, memory: Any, past: Any) -> tuple[Tensor, Any]:
        """Hidden states [N, L, D] of the next cells, and the past with them in it, which has `rows` as a memory has."""
        ...


class Law:
    """Log p of the next token: what may not be written is at -inf."""

    def __init__(self, alphabet: Alphabet, device: torch.device):
        self.alphabet = alphabet
        self.silent = torch.tensor(sorted({alphabet.mask, alphabet.pad, *alphabet.special} - {alphabet.end, None}))
        self.silent = self.silent.to(device)

    def __call__(self, reading: Any, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, V]; ids that the output layer has and the alphabet has not are left out."""
        log_prob = reading.log_probs(hidden, self.alphabet.mask)[:, : self.alphabet.size]
        return log_prob.index_fill_(1, self.silent, -torch.inf)


@torch.inference_mode()
def greedy(net: LeftToRight, source: Tensor, attend: Tensor, alphabet: Alphabet, longest: int) -> Outcome:
    """The most probable next token, again and again; sources [B, S] int64 and [B, S] bool (False = padding).

    longest: tokens of a text, its end counted. Raises BadInput for a parallel net or an alphabet without an end.
    """
    law, end = Law(alphabet, source.device), _end(net, alphabet, longest)
    rows = torch.arange(len(source), device=source.device)
    text = source.new_full((len(source), longest), end)
    total = torch.zeros(len(source), dtype=torch.float64, device=source.device)
    token, past = source.new_full((len(source), 1), net.start), None
    with resting(net):
        reading: Any = net.read(source, attend)
        for cell in range(longest):
            if not len(rows):
                break
            hidden, past = net.step(token, reading.memory, past)
            log_prob, token = law(reading, hidden[:, -1]).max(1, keepdim=True)
            total[rows] += log_prob[:, 0]
            text[rows, cell] = token[:, 0]
            ended = token[:, 0] == end
            if bool(ended.any()):
                going = (~ended).nonzero()[:, 0]
                rows, token = rows[going], token[going]
                reading, past = reading.rows(going), past.rows(going)
    length = (text != end).sum(1)
    tokens = [row[:stop] for row, stop in zip(text.tolist(), length.tolist())]
    return Outcome(tokens, total, length, (length + 1).clamp(max=longest))


@torch.inference_mode()
def beam(
    net: LeftToRight,
    source: Tensor,
    attend: Tensor,
    alphabet: Alphabet,
    longest: int,
    width: int,
    length_penalty: float = 1.0,
) -> Outcome:
    """The best text that a beam finds; sources [B, S] int64 and [B, S] bool (False = padding).

    longest: tokens of a text, its end counted; width: hypotheses of a source; length_penalty: 0 ranks by log p, 1 by
    log p a token, more favours long texts. log_prob of the outcome is not divided; calls count the source's steps.
    Raises BadInput for a parallel net, an alphabet without an end, or numbers out of range.
    """
    end = _end(net, alphabet, longest)
    if width < 1:
        raise BadInput(f"beam search came with width {width}: type a width of 1 or more.")
    if not -STEEPEST <= length_penalty <= STEEPEST:
        raise BadInput(
            f"beam search came with length penalty {length_penalty}: type one from -10 to 10, mostly 0 to 1."
        )
    law, finished = Law(alphabet, source.device), Finished(len(source), source.device)
    rows = torch.arange(len(source), device=source.device)
    running = Hypotheses(source.new_empty(len(source), 1, 0), finished.log_prob[:, None].clone())
    token, past = source.new_full((len(source), 1), net.start), None
    with resting(net):
        reading: Any = net.read(source, attend)
        for length in range(1, longest + 1):
            if not len(rows):
                break
            hidden, past = net.step(token, reading.memory, past)
            parent, longer = running.continued(law(reading, hidden[:, -1]), width)
            ended = (longer.tokens[:, :, -1] == end) | (length == longest)
            finished.take(rows, longer, ended[:, :width], length**length_penalty)
            finished.calls[rows] = length
            order = ended.long().argsort(dim=1, stable=True)[:, :width]
            reach = min(length + 1, longest) if length_penalty <= 0 else longest
            after = longer.going_on(order, ended)
            hope = after.log_prob[:, 0] / reach**length_penalty
            going = (finished.score[rows] < hope).nonzero()[:, 0]
            index = going[:, None] * running.log_prob.shape[1] + parent.gather(1, order)[going]
            past = past.rows(index.flatten())
            if len(going) < len(rows) or after.log_prob.shape != running.log_prob.shape:
                reading = reading.rows(index.flatten())
            rows, running = rows[going], Hypotheses(*(x[going] for x in after))
            token = running.tokens[:, :, -1].flatten()[:, None]
    return finished.outcome(end)


class Hypotheses(NamedTuple):
    """Texts of N sources, best first; tokens: [N, K, n] int64; log_prob: [N, K] float64, -inf where there is none."""

    tokens: Tensor
    log_prob: Tensor

    def continued(self, log_prob: Tensor, width: int) -> tuple[Tensor, Hypotheses]:
        """The best C <= 2 * width that are one token longer, and their parents [N, C], given log p [N * K, V]."""
        most = 2 * width
        found, token = log_prob.topk(min(most, log_prob.shape[1]))
        total = self.log_prob[:, :, None] + found.view(*self.log_prob.shape, -1)
        total, place = total.flatten(1).topk(min(most, total[0].numel()))
        parent = place // found.shape[1]
        token = token.view(len(total), -1).gather(1, place)
        return parent, Hypotheses(torch.cat([_pick(self.tokens, parent), token[:, :, None]], 2), total)

    def going_on(self, order: Tensor, ended: Tensor) -> Hypotheses:
        """Those in an order [N, K]; what has ended [N, C] does not go on."""
        log_prob = self.log_prob.masked_fill(ended, -torch.inf)
        return Hypotheses(_pick(self.tokens, order), log_prob.gather(1, order))


class Finished:
    """The best finished hypothesis of each of B sources; score: its log p, divided as the penalty says."""

    def __init__(self, sources: int, device: torch.device):
        self.tokens: list[list[int]] = [[] for _ in range(sources)]
        self.log_prob = torch.zeros(sources, dtype=torch.float64, device=device)
        self.score = torch.full_like(self.log_prob, -torch.inf)
        self.calls = torch.zeros(sources, dtype=torch.int64, device=device)

    def take(self, rows: Tensor, hypotheses: Hypotheses, ended: Tensor, divisor: float) -> None:
        """Keep what has just ended, [N, up to C], where it is better than all before it."""
        log_prob = hypotheses.log_prob[:, : ended.shape[1]].masked_fill(~ended, -torch.inf)
        best, place = log_prob.max(1)
        for row in (best / divisor > self.score[rows]).nonzero()[:, 0].tolist():
            source = int(rows[row])
            self.tokens[source] = hypotheses.tokens[row, int(place[row])].tolist()
            self.log_prob[source] = best[row]
            self.score[source] = best[row] / divisor

    def outcome(self, end: int) -> Outcome:
        """Without end tokens."""
        tokens = [[token for token in row if token != end] for row in self.tokens]
        length = torch.tensor([len(row) for row in tokens], dtype=torch.int64, device=self.calls.device)
        return Outcome(tokens, self.log_prob, length, self.calls)


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """[N, K, n] at [N, C] -> [N, C, n]."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def _end(net: Any, alphabet: Alphabet, longest: int) -> int:
    """The end token, if decoding can begin."""
    if not net.causal:
        raise BadInput("this net writes in parallel: decode it with remask.translate.parallel.")
    if alphabet.end is None:
        raise BadInput(
            "decoding from left to right needs an end token, and this tokenizer has none: give one that has."
        )
    if longest < 1:
        raise BadInput(f"decoding came with at most {longest} tokens: type 1 or more.")
    return alphabet.end
