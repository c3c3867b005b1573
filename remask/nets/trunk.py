"""The trunk of any Hugging Face encoder: tokens to hidden states, documents kept apart, whatever head sits on top.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from remask.core.documents import positions as restart
from remask.core.documents import starts
from remask.core.errors import BadInput
from remask.nets import attention
from remask.nets.masks import both, offsets, same_document, window
from remask.nets.share import plain

CAUSAL = frozenset({"modernbert-decoder", "remask-modernbert-decoder"})
DIRECTIONAL = frozenset({"remask-modernbert", "remask-modernbert-blocks", "remask-modernbert-decoder"})


class Trunk(nn.Module):
    """The hidden states of a transformers model.

    model: the wrapped model, with any head; saving and loading are its own.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.training = model.training  # else net.train(net.training) would wake the dropout of a loaded model
        if "modernbert" in self.family and self.family not in DIRECTIONAL:
            # takes our bool masks (eager attention would add them as numbers), and is quick in training on CPU
            model.config._attn_implementation = attention.NAME

    def save(self, directory: Path, *, training: bool = False) -> list[Path]:
        """Write a standard Hugging Face directory; returns the directories written, which want a tokenizer.

        Directional heads that are fully open leave a plain ModernBERT behind.
        """
        del training
        plain(self.model).save_pretrained(str(directory))
        config = self.model.config
        if getattr(config, "opened", 0) == 1 and not config.time_conditioning:
            from remask.nets.directional import plain_config

            (directory / "config.json").write_text(json.dumps(plain_config(config), indent=2) + "\n", encoding="utf-8")
        return [directory]

    def restore(self, directory: Path) -> None:
        """Take the weights that `save` wrote, exactly."""
        load_model(self.model, str(directory / "model.safetensors"))

    @property
    def trunk(self) -> Trunk:
        """Itself: a pair of nets has another answer."""
        return self

    @property
    def vocabulary(self) -> int:
        """Ids that the embedding has, V."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def family(self) -> str:
        """transformers' model type."""
        return self.model.config.model_type

    @property
    def causal(self) -> bool:
        """Whether position i sees nothing after it."""
        return self.family in CAUSAL

    @property
    def length(self) -> int:
        """The longest row that the model can read."""
        return int(self.model.config.max_position_embeddings) - self._first_position

    @property
    def _first_position(self) -> int:
        """Number of a row's first position: RoBERTa's relatives count on from their padding id."""
        offset = "roberta" in self.family or self.family == "camembert"
        return int(self.model.config.pad_token_id) + 1 if offset else 0

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, L, D]; attention never crosses from one document to another.

        Raises BadInput when `sees` comes for a family that takes no such mask.
        """
        apart = None if documents is None else same_document(documents)
        if "modernbert" in self.family:
            if positions is None and apart is not None and documents is not None:
                positions = restart(documents)
            return self._modernbert(tokens, positions, both(apart, None if sees is None else sees[:, None]), attend)
        if sees is not None:
            raise BadInput(f"a {self.family} net cannot be told what each cell may see: use a ModernBERT.")
        if apart is not None and documents is not None:
            return self._unpacked(tokens, documents, attend)
        place = None if positions is None else positions + self._first_position
        return self._trunk(tokens, None if attend is None else attend.long(), position_ids=place)

    def _trunk(self, tokens: Tensor, mask: Any, **rest: Any) -> Tensor:
        rest = {name: value for name, value in rest.items() if value is not None}
        return self.model.base_model(input_ids=tokens, attention_mask=mask, **rest)[0]

    def _modernbert(
        self, tokens: Tensor, positions: Tensor | None, apart: Tensor | None, attend: Tensor | None
    ) -> Tensor:
        length = tokens.shape[1]
        itself = torch.eye(length, dtype=torch.bool, device=tokens.device)
        seen = None if attend is None else attend[:, None, None, :] | itself
        allowed = both(apart, seen)
        if self.family in DIRECTIONAL:
            return self._trunk(tokens, allowed, position_ids=positions)
        config = self.model.config
        offset = offsets(length, length, tokens.device)
        if self.causal and allowed is not None:
            allowed = allowed & (offset >= 0)
        masks = {"full_attention": allowed}
        if "sliding_attention" in config.layer_types:
            masks["sliding_attention"] = both(allowed, window(config.sliding_window, self.causal, offset)[None, None])
        return self._trunk(tokens, masks, position_ids=positions)

    def _unpacked(self, tokens: Tensor, documents: Tensor, attend: Tensor | None) -> Tensor:
        """Every document of every row as a padded row of its own: exact for any model, whatever its positions are."""
        number = starts(documents).flatten().long().cumsum(0) - 1  # piece of each cell
        place = restart(documents).flatten()
        shape = (int(number[-1]) + 1, int(place.max()) + 1)
        pieces = tokens.new_zeros(shape)
        pieces[number, place] = tokens.flatten()
        seen = tokens.new_zeros(shape)
        seen[number, place] = 1 if attend is None else attend.flatten().long()
        return self._trunk(pieces, seen)[number, place].view(*tokens.shape, -1)
