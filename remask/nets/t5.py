"""T5 and mT5 as encoder-decoders that write in parallel, or from left to right.

The parameters are transformers' own, so a causal one is an ordinary `T5ForConditionalGeneration` directory, and any
T5 or mT5 can be turned into a parallel decoder (Li et al. 2024, arXiv 2407.21046, section on the network; Raffel et al.
2020, arXiv 1910.10683): the decoder's self-attention sees both sides, its input is not shifted, a [LENGTH] vector in
front of the source tells how long the target will be and is hidden from cross-attention. What is new says nothing
before training: cell positions (from both ends), the diagonal (nets/diagonal.py) and the length classifier begin at
zero. The forward pass is written here, over those parameters, so that sources are encoded once and only asked cells
reach the head.
Shapes: B batch, S source length, L target length, K keys, D width, H heads, E width of a head, M longest target.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from remask.nets.diagonal import BUCKETS, diagonal
from remask.nets.heads import Head
from remask.nets.lengths import LengthHead
from remask.nets.places import places
from remask.nets.reading import Guide, Memory, Past, Reading, causal_mask
from remask.nets.relative import buckets, two_sided
from remask.nets.scoring import Scoring

NEW = ("length_token", "length_head", "from_start", "from_end", "diagonal")
FUSED = {"gelu_new": partial(nn.functional.gelu, approximate="tanh")}  # the same function in one kernel, not in eight


class ParallelT5Config(T5Config):
    """T5Config of a parallel decoder.

    longest_target: M, tokens without the end token; length_kind: of the length head (nets/lengths.py).
    """

    model_type = "remask-t5"
    longest_target: int = 128
    length_kind: str = "both"
    feed_forward_proj: str = "relu"


class ParallelT5(T5ForConditionalGeneration):
    """T5's parameters and those that parallel decoding adds; `T5Net` runs it."""

    config_class = ParallelT5Config
    config: ParallelT5Config

    def __init__(self, config: ParallelT5Config):
        super().__init__(config)
        width, longest = config.d_model, config.longest_target
        self.length_token = nn.Parameter(torch.zeros(width))
        self.length_head = LengthHead(config.length_kind, width, longest)
        self.from_start = nn.Embedding(longest + 1, width)
        self.from_end = nn.Embedding(longest + 1, width)
        self.diagonal = nn.Embedding(BUCKETS, config.num_heads)
        self.quiet()

    @torch.no_grad()
    def quiet(self) -> None:
        """Let what is new say nothing."""
        self.length_token.zero_()
        self.from_start.weight.zero_()
        self.from_end.weight.zero_()
        self.diagonal.weight.zero_()
        self.length_head.reset_parameters()


def parallel(model: Any, longest_target: int = 128, length_kind: str = "both") -> ParallelT5:
    """The parallel decoder that a T5 or mT5 becomes: all of its weights, and nothing else that would speak.

    The causal distances of its decoder's position bias are kept on both sides, as far as the buckets reach.
    """
    plain = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures")}
    config = ParallelT5Config(**plain, longest_target=longest_target, length_kind=length_kind)
    config.scale_decoder_outputs = scaled(model.config)
    with torch.random.fork_rng(devices=[]):
        made = ParallelT5(config)
    if model.lm_head.weight is not model.shared.weight:  # mT5 and T5 v1.1 have an output matrix of their own
        made.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    made.load_state_dict(model.state_dict(), strict=False)
    name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = model.get_parameter(name)
    made.get_parameter(name).data.copy_(two_sided(table.data, config.relative_attention_max_distance))
    made.quiet()
    return made.train(model.training)


def scaled(config: Any) -> bool:
    """Whether outputs are divided by the square root of the width: T5 with tied embeddings, and never mT5."""
    tied = config.model_type != "mt5" and config.tie_word_embeddings
    return bool(getattr(config, "scale_decoder_outputs", tied)) and config.model_type != "mt5"


class T5Net(Scoring, nn.Module):
    """An EncoderDecoder around a `T5ForConditionalGeneration` (left to right) or a `ParallelT5`.

    model: the wrapped model; saving and loading are its own.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.training = model.training
        config = model.config
        self.heads, self.dropout = config.num_heads, config.dropout_rate
        self.gated, self.fused = config.is_gated_act, FUSED.get(config.dense_act_fn)

    @property
    def causal(self) -> bool:
        """Whether a target's cell sees nothing after it."""
        return not isinstance(self.model, ParallelT5)

    @property
    def family(self) -> str:
        """transformers' model type."""
        return self.model.config.model_type

    @property
    def length(self) -> int:
        """The longest target, end token and all; relative positions reach any distance, so a causal one has no end."""
        return 1_000_000 if self.causal else self.model.config.longest_target + 1

    @property
    def start(self) -> int:
        """What a left-to-right decoder reads before the first token."""
        return int(self.model.config.decoder_start_token_id or 0)

    @property
    def length_head(self) -> LengthHead:
        """Of a parallel decoder."""
        return self.model.length_head

    @property
    def head(self) -> Head:
        """The output matrix, and T5's scale before it."""
        config = self.model.config
        scale = config.d_model**-0.5 if scaled(config) else 1.0
        return Head(lambda hidden: hidden * scale, self.model.lm_head.weight, None)

    def save(self, directory: Path, *, training: bool = False) -> list[Path]:
        """Write a Hugging Face directory; returns the directories written, which want a tokenizer."""
        del training
        self.model.save_pretrained(str(directory))
        return [directory]

    def restore(self, directory: Path) -> None:
        """Take the weights that `save` wrote, exactly."""
        load_model(self.model, str(directory / "model.safetensors"))

    def read(self, source: Tensor, attend: Tensor) -> Reading:
        """Encode sources once; [B, S] int64 and [B, S] bool (False = padding)."""
        stack = self.model.encoder
        hidden = stack.embed_tokens(source)
        seen = attend
        if not self.causal:
            told = self.model.length_token.to(hidden.dtype).expand(len(source), 1, -1)
            hidden = torch.cat([told, hidden], 1)
            seen = torch.cat([attend.new_ones(len(source), 1), attend], 1)
        hidden = self._drop(hidden)
        length = hidden.shape[1]
        bias = self._bias(stack, length, length, two_ways=True).masked_fill(~seen[:, None, None], -torch.inf)
        for block in stack.block:
            hidden, _, _ = self._look(block.layer[0], hidden, bias)
            hidden = self._feed(block.layer[-1], hidden)
        hidden = self._drop(_normed(stack.final_layer_norm, hidden))
        summary = hidden[:, 0]
        hidden = hidden if self.causal else hidden[:, 1:]
        layers = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        keys, values = ([self._heads(w(hidden)) for w in ws] for ws in zip(*((a.k, a.v) for a in layers)))
        return Reading(self, Memory(tuple(keys), tuple(values), attend, summary))

    def guide(self, memory: Memory, length: int, attend: Tensor | None) -> Guide | None:
        """Of targets of L cells, attend: [B, L] bool, False = padding; None for a causal decoder."""
        if self.causal:
            return None
        place = places(self.model.from_start, self.model.from_end, length, attend)
        return Guide(place, diagonal(self.model.diagonal.weight, memory.attend, length, attend))

    def decode(
        self,
        tokens: Tensor,
        memory: Memory,
        *,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Hidden states of targets, [B, L, D]; attend: [B, L] bool, False = padding; sees: [B or 1, L, L] bool.

        guide: of these targets, where it is known already.
        """
        length = tokens.shape[1]
        allowed = attend[:, None, :] if attend is not None else None
        if self.causal:
            before = causal_mask(length, length, tokens.device)
            allowed = before if allowed is None else allowed & before
        if sees is not None:
            allowed = sees if allowed is None else allowed & sees
        if attend is not None and allowed is not None:  # padding sees itself: a row of -inf would be NaN
            allowed = allowed | torch.eye(length, dtype=torch.bool, device=tokens.device)
        hidden, cross = self.model.decoder.embed_tokens(tokens), _padding(memory.attend)
        guide = guide or self.guide(memory, length, attend)
        if guide is not None:
            hidden, cross = hidden + guide.places, guide.cross
        bias = self._bias(self.model.decoder, length, length, two_ways=not self.causal)
        if allowed is not None:
            bias = bias.masked_fill(~allowed[:, None], -torch.inf)
        return self._run(hidden, memory, bias, cross, None)[0]

    def step(self, tokens: Tensor, memory: Memory, past: Past | None) -> tuple[Tensor, Past]:
        """Hidden states of the next cells of a left-to-right decoder, [B, L, D], and the past with them in it."""
        before = 0 if past is None else past.keys[0].shape[2]
        length = tokens.shape[1]
        bias = self._bias(self.model.decoder, length, before + length, two_ways=False)
        if length > 1:
            bias = bias.masked_fill(~causal_mask(length, before + length, tokens.device)[:, None], -torch.inf)
        return self._run(self.model.decoder.embed_tokens(tokens), memory, bias, _padding(memory.attend), past)

    def _run(
        self, hidden: Tensor, memory: Memory, bias: Tensor, cross: Tensor | None, past: Past | None
    ) -> tuple[Tensor, Past]:
        stack = self.model.decoder
        hidden = self._drop(hidden)
        keys, values = [], []
        for number, block in enumerate(stack.block):
            before = None if past is None else (past.keys[number], past.values[number])
            look, read, feed = block.layer
            hidden, key, value = self._look(look, hidden, bias, before)
            keys.append(key)
            values.append(value)
            attention = read.EncDecAttention
            query = self._heads(attention.q(_normed(read.layer_norm, hidden)))
            found = self._mix(query, memory.keys[number], memory.values[number], cross)
            hidden = self._feed(feed, hidden + self._drop(attention.o(found)))
        return self._drop(_normed(stack.final_layer_norm, hidden)), Past(tuple(keys), tuple(values))

    def _look(
        self, layer: Any, hidden: Tensor, bias: Tensor, before: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention with its residual, and the keys and values that it used."""
        attention, normed = layer.SelfAttention, _normed(layer.layer_norm, hidden)
        query, key, value = (self._heads(w(normed)) for w in (attention.q, attention.k, attention.v))
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        return hidden + self._drop(attention.o(self._mix(query, key, value, bias))), key, value

    def _feed(self, layer: Any, hidden: Tensor) -> Tensor:
        """The feed-forward layer with its residual."""
        dense, normed = layer.DenseReluDense, _normed(layer.layer_norm, hidden)
        act = self.fused or dense.act
        inner = act(dense.wi_0(normed)) * dense.wi_1(normed) if self.gated else act(dense.wi(normed))
        return hidden + self._drop(dense.wo(self._drop(inner).to(dense.wo.weight.dtype)))

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout, in training."""
        return nn.functional.dropout(x, self.dropout) if self.model.training else x

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, H * E] -> [B, H, L, E]."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k^T + bias) v, [B, L, H * E]: plain products, since targets are short (T5 scales its weights)."""
        scores = torch.matmul(query, key.transpose(2, 3))
        scores = scores if scores.dtype == torch.float64 else scores.float()
        share = (scores if bias is None else scores + bias).softmax(-1).to(value.dtype)
        return torch.matmul(self._drop(share), value).transpose(1, 2).flatten(2)

    def _bias(self, stack: Any, queries: int, keys: int, *, two_ways: bool) -> Tensor:
        """Position bias of the last `queries` of `keys` cells, [1, H, queries, keys]."""
        config = self.model.config
        table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        number, far = config.relative_attention_num_buckets, config.relative_attention_max_distance
        index = buckets(queries, keys, number, far, two_ways, table.device)
        return table[index].permute(2, 0, 1)[None]


def _padding(attend: Tensor) -> Tensor | None:
    """What hides the padding of sources, [B, S] bool -> [B, 1, 1, S], or None where there is none."""
    if not attend.is_cuda and bool(attend.all()):  # asking a GPU would mean waiting for it
        return None
    return torch.where(attend, 0.0, -torch.inf)[:, None, None]


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """T5's norm: divided by the root of the mean square, in float32 or better, and scaled."""
    weight = norm.weight
    return weight * nn.functional.rms_norm(hidden, weight.shape, None, norm.variance_epsilon).to(weight.dtype)
