"""One masked language model as encoder and decoder, joined by cross-attention that is silent at first.

A net that could only understand writes in parallel (Yoshida 2024, arXiv 2408.16241, RUM-SUNDAE): both halves begin as
the masked model, and after every layer of the decoder comes x + W0 Attn(norm(x), source) with W0 = 0 (zero-initialised
residual branches: Bachlechner et al. 2021, arXiv 2003.04887), which looks along the diagonal (nets/diagonal.py). So
before training the decoder answers as the masked model does, whatever the source is. The families' own code runs
untouched: cross-attention enters by hooks on their layers, which act only while `decode` runs.
Shapes: B batch, S source length, L target length, D width, H heads, E width of a head, M longest target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from remask.core.errors import BadCheckpoint, BadInput
from remask.nets.attention import attention
from remask.nets.causal import given, taken
from remask.nets.configs import WEIGHTS, check_attention, check_family, check_weights, read_config
from remask.nets.diagonal import diagonal, start
from remask.nets.heads import Head
from remask.nets.hf import HuggingFaceNet
from remask.nets.lengths import HEADS, LengthHead
from remask.nets.places import places
from remask.nets.reading import Guide, Memory, Past, Reading
from remask.nets.scoring import Scoring
from remask.nets.share import plain_state
from remask.nets.trunk import CAUSAL, Trunk

FAMILY = "remask-crossed"

LAYERS: dict[str, str] = {  # where a family's trunk keeps its list of layers
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "camembert": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "modernbert": "layers",
    "modernbert-decoder": "layers",
    "remask-modernbert": "layers",
    "remask-modernbert-decoder": "layers",
}


class CrossAttention(nn.Module):
    """x + W0 Attn(norm(x), source), with W0 = 0 at first.

    width: D of the decoder; source_width: D of the encoder; heads: H.
    """

    layer_idx = -1  # what nets/attention.py asks of a module: not the first layer, and not causal
    is_causal = False

    def __init__(self, width: int, source_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(source_width, width, bias=False)
        self.value = nn.Linear(source_width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        nn.init.zeros_(self.output.weight)

    def remember(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, S, E] of encoded sources [B, S, D]."""
        return self._heads(self.key(source)), self._heads(self.value(source))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, L, D] with what they found in the source.

        mask: [B, H or 1, L or 1, S], bool (False = not seen) or a bias.
        """
        query = self._heads(self.query(self.norm(hidden)))
        found, _ = attention(self, query, keys, values, mask, scaling=1 / math.sqrt(query.shape[3]))
        return hidden + self.output(found.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, H * E] -> [B, H, L, E]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class _Pass(NamedTuple):
    """What the hooks of a net need for the time of one `decode`.

    places: [1 or B, L, D], None for a causal one; mask: of cross-attention, [B, H or 1, L or 1, S].
    """

    net: CrossedNet
    memory: Memory
    places: Tensor | None
    mask: Tensor


_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


@contextmanager
def _during(now: _Pass) -> Iterator[None]:
    """The hooks act."""
    before = _PASS.set(now)
    try:
        yield
    finally:
        _PASS.reset(before)


class CrossedNet(Scoring, nn.Module):
    """An EncoderDecoder made of two Hugging Face models of any known families.

    encoder, decoder: what reads and what writes; a causal decoder writes from left to right, knows neither its length
    nor its way to the end, and so has no length head. longest_target: M, tokens without the end token; length_kind: of
    the length head (nets/lengths.py); tied: one token table for both (they begin with the encoder's).
    Raises BadInput where the decoder cannot read M + 1 cells, or tables to be tied differ in shape.
    """

    family = FAMILY

    def __init__(
        self,
        encoder: Trunk,
        decoder: HuggingFaceNet,
        longest_target: int = 128,
        length_kind: str = "both",
        *,
        tied: bool = False,
    ):
        super().__init__()
        if not 1 <= longest_target < decoder.length:
            raise BadInput(
                f"the longest target came as {longest_target} tokens, and with its end token it must fit the "
                f"{decoder.length} cells that this {decoder.family} net can read: type --length {decoder.length} or "
                "less, and with a --length-factor that number divided by it."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.longest_target, self.length_kind, self.tied = longest_target, length_kind, tied
        if tied:
            _tie(encoder.model, decoder.model)
        config = decoder.model.config
        width, source_width = config.hidden_size, encoder.model.config.hidden_size
        layers = decoder.model.base_model.get_submodule(LAYERS[decoder.family])
        self.cross = nn.ModuleList(CrossAttention(width, source_width, config.num_attention_heads) for _ in layers)
        if not self.causal:
            self.length_head = LengthHead(length_kind, source_width, longest_target)
            self.from_start = nn.Embedding(longest_target + 1, width)
            self.from_end = nn.Embedding(longest_target + 1, width)
            nn.init.zeros_(self.from_start.weight)
            nn.init.zeros_(self.from_end.weight)
            self.diagonal = nn.Embedding.from_pretrained(start(config.num_attention_heads), freeze=False)
        # bound methods and not closures: a deep copy of the net then has hooks of its own
        layers[0].register_forward_pre_hook(self._enter)
        for number, layer in enumerate(layers):
            layer.register_forward_hook(partial(self._leave, number))
        self.training = decoder.training

    @property
    def causal(self) -> bool:
        """Whether a target's cell sees nothing after it."""
        return self.decoder.causal

    @property
    def head(self) -> Head:
        """The decoder's."""
        return self.decoder.head

    @property
    def length(self) -> int:
        """The longest target, end token and all."""
        return self.decoder.length if self.causal else self.longest_target + 1

    @property
    def source_length(self) -> int:
        """The longest source, end token and all."""
        return self.encoder.length

    @property
    def start(self) -> int:
        """What a left-to-right decoder reads before the first token: the pad, as in T5's training."""
        config = self.decoder.model.config
        names = ("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id")
        return next((int(i) for i in (getattr(config, name, None) for name in names) if i is not None), 0)

    def read(self, source: Tensor, attend: Tensor) -> Reading:
        """Encode sources once; [B, S] int64 and [B, S] bool (False = padding)."""
        hidden = self.encoder.hidden(source, attend=attend)
        layers: Any = self.cross
        keys, values = zip(*(cross.remember(hidden) for cross in layers))
        share = attend.to(hidden.dtype)
        summary = torch.einsum("bsd,bs->bd", hidden, share / share.sum(1, keepdim=True).clamp(min=1))
        return Reading(self, Memory(keys, values, attend, summary))

    def guide(self, memory: Memory, length: int, attend: Tensor | None) -> Guide | None:
        """Of targets of L cells, attend: [B, L] bool, False = padding; None for a causal decoder."""
        if self.causal:
            return None
        place = places(self.from_start, self.from_end, length, attend)
        return Guide(place, diagonal(self.diagonal.weight, memory.attend, length, attend))

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
        guide = guide or self.guide(memory, tokens.shape[1], attend)
        place, mask = guide or (None, memory.attend[:, None, None])
        with _during(_Pass(self, memory, place, mask)):
            return self.decoder.hidden(tokens, attend=attend, sees=sees)

    def step(self, tokens: Tensor, memory: Memory, past: Past | None) -> tuple[Tensor, Past]:
        """Hidden states of the next cells of a left-to-right decoder, [B, L, D], and the past with them in it."""
        cache = given(() if past is None else tuple(zip(past.keys, past.values)))
        with _during(_Pass(self, memory, None, memory.attend[:, None, None])):
            hidden = self.decoder.model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)[0]
        keys, values = zip(*taken(cache))
        return hidden, Past(keys, values)

    def _enter(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the first layer: tell the cells where they are."""
        del layer
        now = _PASS.get()
        if now is None or now.net is not self or now.places is None:
            return None
        return (given[0] + now.places.to(given[0].dtype), *given[1:])

    def _leave(self, number: int, layer: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """After a layer: let the cells look into the source."""
        del layer, given
        now = _PASS.get()
        if now is None or now.net is not self:
            return output
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        memory = now.memory
        hidden = self.cross[number](hidden, memory.keys[number], memory.values[number], now.mask)
        return (hidden, *rest) if isinstance(output, tuple) else hidden

    def save(self, directory: Path, *, training: bool = False) -> list[Path]:
        """Write config.json and all weights in one file; returns the directories written, which want a tokenizer."""
        del training
        directory.mkdir(parents=True, exist_ok=True)
        save_model(self, str(directory / WEIGHTS))
        config = {
            "model_type": FAMILY,
            "longest_target": self.longest_target,
            "length_kind": self.length_kind,
            "tied": self.tied,
            "encoder": json.loads(self.encoder.model.config.to_json_string()),
            "decoder": json.loads(self.decoder.model.config.to_json_string()),
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return [directory]

    def restore(self, directory: Path) -> None:
        """Take the weights that `save` wrote, exactly."""
        load_model(self, str(directory / WEIGHTS))


def _tie(encoder: Any, decoder: Any) -> None:
    """Let the decoder read (and predict, where its family does so) with the encoder's token table."""
    theirs, ours = encoder.get_input_embeddings(), decoder.get_input_embeddings()
    if theirs.weight.shape != ours.weight.shape:
        raise BadInput(
            f"the encoder's embedding is {tuple(theirs.weight.shape)} and the decoder's {tuple(ours.weight.shape)}, so "
            "they cannot be tied: leave them apart."
        )
    output = decoder.get_output_embeddings()
    if output is not None and output.weight is ours.weight:
        output.weight = theirs.weight
    ours.weight = theirs.weight


def clone(
    net: HuggingFaceNet,
    *,
    encoder: bool = True,
    decoder: bool = True,
    longest_target: int = 128,
    length_kind: str = "both",
    tied: bool = False,
    writer: HuggingFaceNet | None = None,
    seed: int = 0,
) -> CrossedNet:
    """An encoder-decoder that begins as a language model twice over; the model itself is left alone.

    encoder, decoder: whether that half gets the model's weights, or fresh ones of the same config; longest_target,
    length_kind, tied: of CrossedNet; writer: another model for the decoder (a causal one, say); seed: of all that is
    fresh, which comes out alike whichever halves are. Raises BadInput for an unfit longest target or tied shapes, or a
    net whose layers nobody knows here (one of blocks).
    """
    write = writer or net
    for one in (net, write):
        if one.family not in LAYERS:
            raise BadInput(
                f"a '{one.family}' net cannot begin an encoder-decoder (a net of blocks sees nothing behind a block): "
                "take a masked language model."
            )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        read, written = _twin(net.model, encoder), _twin(write.model, decoder)
        if tied and decoder and not encoder and read.get_input_embeddings().weight.shape == _table(written).shape:
            read.get_input_embeddings().weight.data.copy_(_table(written))  # the table that has been trained stays
        made = CrossedNet(Trunk(read.base_model), HuggingFaceNet(written), longest_target, length_kind, tied=tied)
    like = next(net.model.parameters())
    return made.to(like.device, like.dtype).train(net.training)


def _table(model: Any) -> Tensor:
    return model.get_input_embeddings().weight.data


def _twin(model: Any, same: bool) -> Any:
    """A model of the same config and class, with the same weights or with fresh ones."""
    twin = type(model)(deepcopy(model.config))
    if same:
        twin.load_state_dict(plain_state(model))
    return twin


def open_crossed(path: str | Path) -> CrossedNet:
    """The net that `save` wrote, rebuilt from its two configs; no code of the directory is run.

    Raises BadCheckpoint for a directory that is damaged, of another family, or that names code from elsewhere.
    """
    config = read_config(path)
    if config["model_type"] != FAMILY:
        raise BadCheckpoint(f"{path} is a '{config['model_type']}' model and no '{FAMILY}' one: type another.")
    halves = [_half(config, name, path) for name in ("encoder", "decoder")]
    check_weights(path)
    try:
        longest, kind = config["longest_target"], config["length_kind"]
        if type(longest) is not int or kind not in HEADS:
            raise ValueError(f"a longest target of {longest!r} and the length head {kind!r}")
        with torch.random.fork_rng(devices=[]):
            reader, writer = (_fresh(half) for half in halves)
            tied = bool(config.get("tied"))
            net = CrossedNet(Trunk(reader.base_model), HuggingFaceNet(writer), longest, kind, tied=tied)
            net.restore(Path(path))
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(f"{path} cannot be opened ({first}): the weights or the config are damaged.") from error
    return net.eval()


def _half(config: dict[str, Any], name: str, path: str | Path) -> dict[str, Any]:
    """The config of a half, checked."""
    half = config.get(name)
    if not isinstance(half, dict):
        raise BadCheckpoint(f"{path}/config.json is damaged (it lacks the config of the {name}): restore it.")
    check_family(half, path)
    check_attention(half, path)
    return half


def _fresh(values: dict[str, Any]) -> Any:
    """A model of a checked config."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    from remask.nets import directional

    directional.register()
    plain = {name: value for name, value in values.items() if name not in ("model_type", "auto_map")}
    config = AutoConfig.for_model(values["model_type"], **plain)
    opener = AutoModelForCausalLM if values["model_type"] in CAUSAL else AutoModelForMaskedLM
    return opener.from_config(config, dtype=torch.float32, trust_remote_code=False)
