"""Recurrence: a pretrained causal model reads text of any length in windows, and one vector is carried between them.

    H_i = Transformer(x_i ; an extra key and value made of z_{i-1}),  z_i = W3 gelu(W2 gelu(W1 mean_t H_i[t]))

(Yoshida et al. 2020, arXiv 2008.07027). The slot has no token, no position and no loss. Before a document's first
window there is none: a zero vector would still take its share of attention. Positions start anew in each window. Only
z is kept of a window; its activations are made again in the backward pass (Chen et al. 2016, arXiv 1604.06174).
How the slot gets into attention is said in nets/slots.py. (How the published model projects z is not known here: each
layer's key and value of it are linear maps of their own.)
Shapes: B batch, L length of a row, S window, D width, H heads (of keys), E width of a head, N cells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from remask.core.documents import positions as restart
from remask.core.errors import BadCheckpoint, BadInput
from remask.nets.causal import FARTHEST
from remask.nets.configs import WEIGHTS, check_attention, check_weights, read_config
from remask.nets.heads import FAMILIES, Head, linear_scores
from remask.nets.masks import same_document
from remask.nets.scoring import Scoring
from remask.nets.slots import Look, Slot, reach, reading
from remask.nets.trunk import CAUSAL, Trunk

FAMILY = "remask-recurrent"
BASE = "base"


class Carried(NamedTuple):
    """What goes from a window to the next.

    z: [B, D]; document: [B] int64, of which z tells; known: [B] bool, False where nothing was read yet.
    """

    z: Tensor
    document: Tensor
    known: Tensor

    def detach(self) -> Carried:
        """The same values; gradients end here."""
        return self._replace(z=self.z.detach())


class Cut(NamedTuple):
    """A window: cells [first, last) are read, those from `fresh` on for the first time."""

    first: int
    fresh: int
    last: int


def cuts(length: int, window: int, reread: int = 0) -> Iterator[Cut]:
    """The windows of a row of `length` cells; each but the first reads `reread` cells of the one before again."""
    fresh = 0
    while fresh < length:
        first = max(fresh - reread, 0)
        last = min(first + window, length)
        yield Cut(first, fresh, last)
        fresh = last


class Adapter(nn.Module):
    """The MLP that makes z, and its key and value in each layer that sees it.

    width: D; heads: H and E of these layers.
    """

    def __init__(self, width: int, heads: Mapping[int, tuple[int, int]]):
        super().__init__()
        self.width, self.heads = width, dict(heads)
        self.write = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.keys = nn.ModuleDict({str(k): nn.Linear(width, h * e) for k, (h, e) in heads.items()})
        self.values = nn.ModuleDict({str(k): nn.Linear(width, h * e, bias=False) for k, (h, e) in heads.items()})
        for layer in (*self.write, *self.keys.values()):
            nn.init.normal_(layer.weight, std=width**-0.5)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for layer in self.values.values():  # a fresh slot says nothing
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def forward(self, pooled: Tensor) -> Tensor:
        """z of a window's mean state, [B, D] -> [B, D]."""
        gelu = nn.functional.gelu
        first, second, third = self.write
        return third(gelu(second(gelu(first(pooled)))))

    def slots(self, z: Tensor) -> dict[int, Slot]:
        """Keys and values of z, by layer."""
        found = {}
        for layer, (heads, width) in self.heads.items():
            key, value = (maps[str(layer)](z).view(-1, heads, 1, width) for maps in (self.keys, self.values))
            found[layer] = Slot(key, value)
        return found


class RecurrentNet(Scoring, nn.Module):
    """A Net around a causal transformers model with a language-modelling head; rows may be of any length.

    window: S, cells read at once; reread: of these, cells of the window before (then each step reads S - reread new
    ones; those read again count neither in the loss nor in z); layers_in: whose attention sees the slot, from 0, None
    for all; layer_out: after which layer states are pooled (0: the embeddings), None for the last, with its norm; seed:
    of the adapter's weights.
    Raises BadInput for sizes that do not fit, BadCheckpoint for a model whose attention or head is not reached.
    """

    family = FAMILY
    causal = True
    length = FARTHEST

    def __init__(
        self,
        model: Any,
        window: int,
        reread: int = 0,
        layers_in: Sequence[int] | None = None,
        layer_out: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        _check_windows(model, window, reread)
        self.model, self.window, self.reread, self.layer_out = model, window, reread, layer_out
        heads, width, depth = reach(model, lambda hidden: linear_scores(self.head, hidden))
        self.layers_in = tuple(sorted(heads if layers_in is None else set(layers_in)))
        if not self.layers_in or not {*self.layers_in} <= {*heads}:
            raise BadInput(
                f"--layer-in came as {layers_in}: the slot needs one, and this model's are 0 to {max(heads)}."
            )
        if layer_out is not None and not 0 <= layer_out <= depth:
            raise BadInput(f"--layer-out came as {layer_out}: type 0 (the embeddings) to {depth} (the last layer).")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.adapter = Adapter(width, {layer: heads[layer] for layer in self.layers_in})
        like = next(model.parameters())
        self.adapter.to(like.device, like.dtype)
        self.training = model.training

    @property
    def head(self) -> Head:
        """The model's own: where its family is not known, the matrix of its output layer."""
        family = self.model.config.model_type
        if family in FAMILIES:
            return FAMILIES[family](self.model)
        output = self.model.get_output_embeddings()
        return Head(lambda hidden: hidden, output.weight, getattr(output, "bias", None))

    @property
    def trunk(self) -> RecurrentNet:
        """Itself."""
        return self

    def read_window(
        self, tokens: Tensor, documents: Tensor, fresh: Tensor, before: Carried | None = None
    ) -> tuple[Tensor, Carried]:
        """One window: hidden states [B, S, D], and what it leaves to the next.

        tokens, documents: [B, S]; fresh: [B, S] bool, False where cells were read before, or are padding (which comes
        last). A row's slot is seen where its document goes on, and a row without fresh cells keeps what it carried.
        """
        look = Look({}, apart=same_document(documents))
        if before is not None:
            seen = before.known[:, None] & (documents == before.document[:, None])
            if bool(seen.any()):
                look = look._replace(slots=self.adapter.slots(before.z), seen=seen, all_see=bool(seen.all()))
        pooling = {} if self.layer_out is None else {"output_hidden_states": True}
        with reading(look):
            out = self.model.base_model(input_ids=tokens, position_ids=restart(documents), use_cache=False, **pooling)
        states = out[0] if self.layer_out is None else out.hidden_states[self.layer_out]
        return out[0], self._carry(states, documents, fresh, before)

    def _carry(self, states: Tensor, documents: Tensor, fresh: Tensor, before: Carried | None) -> Carried:
        """z of the fresh cells of each row's last document."""
        place = torch.arange(fresh.shape[1], device=fresh.device)
        last = torch.where(fresh, place, -1).amax(1)
        document = documents.gather(1, last.clamp(min=0)[:, None])[:, 0]
        pooled = (fresh & (documents == document[:, None])).to(states.dtype)
        mean = torch.einsum("bsd,bs->bd", states, pooled) / pooled.sum(1, keepdim=True).clamp(min=1)
        z, known = self.adapter(mean), last >= 0
        if before is None:
            return Carried(z, document, known)
        kept = torch.where(known[:, None], z, before.z)
        return Carried(kept, torch.where(known, document, before.document), known | before.known)

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, L, D] of whole rows, window by window; see core/net.py.

        Raises BadInput for `positions` or `sees`: windows have positions and masks of their own.
        """
        if positions is not None or sees is not None:
            raise BadInput("a recurrent net numbers and masks the cells of its windows itself: leave them out.")
        documents = torch.zeros_like(tokens) if documents is None else documents
        real = torch.ones_like(tokens, dtype=torch.bool) if attend is None else attend
        parts, carried = [], None
        for cut in cuts(tokens.shape[1], self.window, self.reread):
            states, carried = self.read_window(*self._part(cut, tokens, documents, real), carried)
            parts.append(states[:, cut.fresh - cut.first :])
        return torch.cat(parts, 1)

    @staticmethod
    def _part(cut: Cut, tokens: Tensor, documents: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, documents and fresh cells of a window."""
        here = slice(cut.first, cut.last)
        fresh = real[:, here].clone()
        fresh[:, : cut.fresh - cut.first] = False
        return tokens[:, here], documents[:, here], fresh

    def total_nll_of_rows(
        self,
        tokens: Tensor,
        targets: Tensor,
        weight: Tensor,
        documents: Tensor,
        ban: int | None = None,
        *,
        real: Tensor | None = None,
        bptt: int = 0,
        checkpointing: bool = True,
    ) -> Tensor:
        """Sum of weight times -log p of the targets, all [B, L]: a float64 scalar, in nats.

        real: [B, L] bool, False where a row is padded at its end, which is neither pooled nor scored; bptt: gradients
        end after every so many windows, 0 for never; checkpointing: keep z of a window, and make the rest again in the
        backward pass (with the same dropout).
        """
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real

        def step(cut: Cut, carried: Carried | None, tokens: Tensor) -> tuple[Tensor, Carried]:
            states, carried = self.read_window(*self._part(cut, tokens, documents, real), carried)
            here = slice(cut.fresh, cut.last)
            at = real[:, here]
            scored = states[:, cut.fresh - cut.first :][at]
            return self.total_nll(scored, targets[:, here][at], weight[:, here][at], ban), carried

        total, carried = torch.zeros((), dtype=torch.float64, device=tokens.device), None
        for number, cut in enumerate(cuts(tokens.shape[1], self.window, self.reread)):
            if carried is not None and bptt and number % bptt == 0:
                carried = carried.detach()
            if checkpointing and torch.is_grad_enabled():
                # tokens are an argument, since random states are kept of the devices of arguments only
                part, carried = checkpoint(step, cut, carried, tokens, use_reentrant=False)
            else:
                part, carried = step(cut, carried, tokens)
            total = total + part
        return total

    def save(self, directory: Path, *, training: bool = False) -> list[Path]:
        """Write DIR/base (a plain directory of the model), DIR/model.safetensors (the adapter) and DIR/config.json.

        Returns the directories written, which want a tokenizer.
        """
        del training
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(directory / BASE))
        save_model(self.adapter, str(directory / WEIGHTS))
        config = {
            "model_type": FAMILY,
            "window": self.window,
            "reread": self.reread,
            "layers_in": list(self.layers_in),
            "layer_out": self.layer_out,
            "base": self.model.config.model_type,
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return [directory, directory / BASE]

    def restore(self, directory: Path) -> None:
        """Take the weights that `save` wrote, exactly."""
        load_model(self.model, str(directory / BASE / WEIGHTS))
        load_model(self.adapter, str(directory / WEIGHTS))


def _check_windows(model: Any, window: int, reread: int) -> None:
    if window < 1 or not 0 <= reread < window:
        raise BadInput(
            f"--window came as {window} and --reread as {reread}: a window has 1 cell or more, and reads fewer again."
        )
    if window > reach_of(model):
        raise BadInput(
            f"--window {window} is beyond the {reach_of(model)} cells that the model can read: type a smaller one."
        )


def reach_of(model: Any) -> int:
    """The most cells that a causal model of transformers can read at once."""
    return int(getattr(model.config, "max_position_embeddings", None) or FARTHEST)


def is_recurrent(path: str | Path) -> bool:
    """Whether a directory is one that a recurrent net's `save` wrote; BadCheckpoint where it is none at all."""
    return bool(read_config(path)["model_type"] == FAMILY)


def open_recurrent(path: str | Path) -> RecurrentNet:
    """The net that `save` wrote; no code of the directory is run.

    Raises BadCheckpoint for a directory that is damaged, of another family, or that names code from elsewhere.
    """
    config, base = read_config(path), Path(path) / BASE
    if config["model_type"] != FAMILY:
        raise BadCheckpoint(f"{path} is a '{config['model_type']}' model and no '{FAMILY}' one: type another.")
    check_weights(path)
    model = open_causal(base)
    try:
        shape = (config["window"], config["reread"], config["layers_in"], config["layer_out"])
        net = RecurrentNet(model, *shape)
        load_model(net.adapter, str(Path(path) / WEIGHTS))
    except Exception as error:  # safetensors and torch each raise their own kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(f"{path} cannot be opened ({first}): the weights or the config are damaged.") from error
    return net.eval()


def open_causal(path: str | Path) -> Any:
    """A causal model of transformers, of any family that it opens without remote code; BadCheckpoint for others."""
    from transformers import AutoModelForCausalLM

    from remask.nets import directional

    config = read_config(path)
    check_attention(config, path)
    check_weights(path)
    directional.register()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(path), trust_remote_code=False, use_safetensors=True, output_loading_info=True, dtype="float32"
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            raise ValueError("it lacks weights that its config asks for")
    except Exception as error:  # transformers, safetensors and json each raise their own kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(f"{path} cannot be opened as a causal model ({first}): type another.") from error
    return Trunk(model.eval()).model if config["model_type"] in CAUSAL else model.eval()  # which is quicker on CPU
