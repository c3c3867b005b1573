"""Left-to-right encoder-decoders: small random T5s beside transformers' own decoding, and an oracle made of a table."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, T5Config, T5ForConditionalGeneration

from remask.core.alphabet import Alphabet
from remask.nets.t5 import T5Net

ALPHABET = Alphabet(30, mask=1, pad=0, end=2, special=frozenset({0, 1, 2, 3}))
BANNED = [0, 1, 3, 30, 31]  # two ids of the output layer are no tokens
TINY = Alphabet(6, mask=1, pad=0, end=2, special=frozenset({0, 1, 2}))


def model(alphabet: Alphabet = ALPHABET, seed: int = 0, spare: int = 2) -> T5ForConditionalGeneration:
    """A random T5 whose texts end sooner or later, and whose start is no pad."""
    shape = {"d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = T5Config(
        **shape,
        vocab_size=alphabet.size + spare,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        tie_word_embeddings=False,
        decoder_start_token_id=3 % (alphabet.size - 3),
        pad_token_id=alphabet.pad,
        eos_token_id=alphabet.end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = T5ForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in made.named_parameters():
                scale = 2.0 if "relative_attention_bias" in name else 0.25
                weight.add_(torch.randn_like(weight), alpha=scale)
            made.lm_head.weight.normal_(std=0.4)
    return made.eval()


@cache
def net(seed: int = 0) -> T5Net:
    return T5Net(model(seed=seed))


@cache
def tiny(seed: int = 0) -> T5Net:
    """Six ids, in float64, with laws flat enough that no text is hopeless."""
    made = model(TINY, seed, spare=0)
    with torch.no_grad():
        made.lm_head.weight.mul_(0.5)
    return T5Net(made).double().eval()


def sources(rows: int, longest: int, alphabet: Alphabet = ALPHABET, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sources of different lengths with their ends, [B, S], and where they are no padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(max(alphabet.special) + 1, alphabet.size, (rows, longest), generator=generator)
    last = torch.randint(1, longest, (rows, 1), generator=generator)
    last[0] = longest - 1
    place = torch.arange(longest)
    tokens = torch.where(place == last, alphabet.end, torch.where(place > last, alphabet.pad, tokens))
    return tokens, tokens != alphabet.pad


class Lawful(LogitsProcessor):
    """For transformers' beam: what remask calls the law, on top of its log-softmax."""

    def __call__(self, input_ids, scores):
        del input_ids
        scores = scores.clone()
        scores[:, ALPHABET.mask] = -torch.inf
        scores = scores.log_softmax(1)
        scores[:, BANNED] = -torch.inf
        return scores


def theirs(made: T5ForConditionalGeneration, source: Tensor, attend: Tensor, longest: int, **how):
    """What transformers' generate writes: texts without special ids, and all that it returns."""
    if how.get("num_beams", 1) > 1:
        how["logits_processor"] = LogitsProcessorList([Lawful()])
    else:
        how["suppress_tokens"] = BANNED
    found = made.generate(
        input_ids=source,
        attention_mask=attend.long(),
        max_new_tokens=longest,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **how,
    )
    rows = [row[1:] for row in found.sequences.tolist()]
    return [row[: row.index(2)] if 2 in row else row for row in rows], found


class Rows(NamedTuple):
    """What a Markov chain remembers of every row: the first token of its source, in its memory and in its past."""

    first: Tensor

    def rows(self, index: Tensor) -> "Rows":
        return Rows(self.first[index])


class Chain:
    """A causal EncoderDecoder whose next token depends on the last one alone, by a table.

    A text goes on from the first token of its source; after a token that the table lacks it ends.
    """

    causal, start = True, 3

    def __init__(self, table: dict[int, dict[int, float]]):
        self.log_p = torch.full((TINY.size, TINY.size), -torch.inf, dtype=torch.float64)
        self.log_p[:, TINY.end] = 0.0
        for before, after in table.items():
            self.log_p[before] = -torch.inf
            self.log_p[before, list(after)] = torch.tensor(list(after.values()), dtype=torch.float64).log()

    def read(self, source: Tensor, attend: Tensor) -> "ChainReading":
        del attend
        return ChainReading(self, Rows(source[:, 0]))

    def step(self, tokens: Tensor, memory: Rows, past: Rows | None) -> tuple[Tensor, Rows]:
        assert past is None or torch.equal(past.first, memory.first)  # rows leave the one as they leave the other
        last = memory.first[:, None] if past is None else tokens
        return torch.nn.functional.one_hot(last, TINY.size).double(), memory


class ChainReading(NamedTuple):
    net: Chain
    memory: Rows

    def rows(self, index: Tensor) -> "ChainReading":
        return ChainReading(self.net, self.memory.rows(index))

    def log_probs(self, hidden: Tensor, ban: int | None = None) -> Tensor:
        law = self.net.log_p.clone()
        law[:, ban] = -torch.inf
        return law.log_softmax(1)[hidden.argmax(1)]
