"""ModernBERT with directional heads: a fixed bias that gives attention a direction and a distance from the first step.

Small masked nets spend most of a short training finding out that neighbours matter: at a masked position the residual
stream is constant, and a rotary product near its initial zero says nearly nothing about where a key is. Heads that look
left, right or freely with a distance penalty, and a first layer that skips masked keys, end it (docs/results.md).
There is no new parameter: with the bias off these are ModernBERT and ModernBERT-decoder, weight for weight. Because the
bias must travel with the weights, checkpoints with it have model types of their own, which `import remask` registers.
Shapes: B batch, H heads, L length, K keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ModernBertConfig,
    ModernBertDecoderConfig,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
)
from transformers.models.modernbert_decoder.modeling_modernbert_decoder import (
    ModernBertDecoderForCausalLM,
    ModernBertDecoderModel,
)

from remask.core.errors import BadInput
from remask.nets import attention
from remask.nets.lean import LeanDecoderLayer, LeanEncoderLayer, LeanModel, make_lean
from remask.nets.masks import FREE, LEFT, RIGHT, ajar, directional_bias, offsets
from remask.nets.time import Silent, TimeEmbedding, masked_share


class DirectionalConfig(ModernBertConfig):
    """ModernBertConfig with a few more fields.

    head_directions, head_slopes: [H] of "left" | "right" | "free", and the distance penalty per position.
    skip_masked_keys: in layer 0, masked positions are seen by nobody but themselves.
    mask_token_id: which id is a mask.
    opened: how far the heads have become ordinary ones, 0 to 1; at 1 nothing is left of the bias, and with
    `plain_config` the weights open in transformers alone.
    time_conditioning: every cell is told the share of masked cells of its document (nets/time.py).
    """

    model_type = "remask-modernbert"
    opened: float = 0.0
    time_conditioning: bool = False

    @property
    def directed(self) -> bool:
        """Whether its heads differ from ordinary ones: a time-conditioned net's need not."""
        turned = any(direction != FREE for direction in self.head_directions or ())
        return turned or any(self.head_slopes or ()) or self.skip_masked_keys

    head_directions: list[str] | None = None
    head_slopes: list[float] | None = None
    skip_masked_keys: bool = True
    mask_token_id: int | None = None


class DirectionalDecoderConfig(ModernBertDecoderConfig):
    """ModernBertDecoderConfig with a distance penalty for each head, [H]."""

    model_type = "remask-modernbert-decoder"
    head_slopes: list[float] | None = None


def default_directions(heads: int) -> dict[str, Any]:
    """Heads in turn left (slope 1), right (slope 1), free (slope 0)."""
    kinds = [(LEFT, 1.0), (RIGHT, 1.0), (FREE, 0.0)]
    return {
        "head_directions": [kinds[h % 3][0] for h in range(heads)],
        "head_slopes": [kinds[h % 3][1] for h in range(heads)],
    }


def no_directions(heads: int) -> dict[str, Any]:
    """Free heads without a slope, masked keys in view: ordinary attention."""
    return {"head_directions": [FREE] * heads, "head_slopes": [0.0] * heads, "skip_masked_keys": False}


def default_slopes(heads: int) -> dict[str, Any]:
    """The causal twin's locality: slopes 1, 1/4, 0 in turn.

    With 1, 1/2, 1/4 nothing thirty tokens back could be seen, which costs from some 2M tokens of training on.
    """
    slopes = (1.0, 0.25, 0.0)
    return {"head_slopes": [slopes[h % 3] for h in range(heads)]}


def _combine(bias: Tensor, allowed: Tensor | None) -> Tensor:
    """Bias [H, L, K] and a bool mask [B, 1, L, K] as one additive mask [1 or B, H, L, K]."""
    return bias[None] if allowed is None else bias[None].masked_fill(~allowed, -torch.inf)


class _Fresh:
    """Fresh weights as ModernBERT has them, and a time embedding that adds nothing."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Silent):  # transformers would give it the weights of any linear layer
            module.reset_parameters()
        else:
            super()._init_weights(module)  # type: ignore[misc]


class DirectionalModel(_Fresh, LeanModel, ModernBertModel):
    """The trunk: builds its bias in forward, so no caller can forget it."""

    config: DirectionalConfig
    config_class = DirectionalConfig
    _no_split_modules = ("ModernBertEmbeddings", "LeanEncoderLayer")

    def __init__(self, config: DirectionalConfig):
        if config.head_directions is None or config.head_slopes is None:
            for name, value in default_directions(config.num_attention_heads).items():
                setattr(config, name, value)
        super().__init__(config)
        make_lean(self.layers, LeanEncoderLayer)
        config._attn_implementation = attention.NAME  # others would not know of the first layer's own mask
        if config.time_conditioning:
            self.time = TimeEmbedding(config.hidden_size)
            self.post_init()

    def _told(self, input_ids: Tensor | None, allowed: Tensor | None) -> Tensor:
        """Input embeddings with the time in them, [B, L, D]."""
        mask = self.config.mask_token_id
        if input_ids is None or mask is None:
            raise BadInput("a time-conditioned net counts masks: give it input_ids, and a mask_token_id in its config.")
        return self.embeddings.tok_embeddings(input_ids) + self.time(masked_share(input_ids.eq(mask), allowed))

    def _bias(self, length: int, device: torch.device) -> Tensor:
        directions, slopes = self.config.head_directions, self.config.head_slopes
        assert directions is not None and slopes is not None
        key = (length, device, self.config.opened, *directions, *slopes)
        if getattr(self, "_cached_for", None) != key:
            with torch.inference_mode(False):  # or the cached tensor could not be used in training afterwards
                offset = offsets(length, length, device)
                self._cached_bias = directional_bias(directions, slopes, offset, self.config.opened)
            self._cached_for = key
        return self._cached_bias

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        """As ModernBertModel's; `attention_mask` is [B, L] (1 = seen) or [B, 1, L, L] bool, or None."""
        source = input_ids if input_ids is not None else rest["inputs_embeds"]
        length, device = source.shape[1], source.device
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask.bool()[:, None, None, :] | torch.eye(
                length, dtype=torch.bool, device=device
            )
        bias = self._bias(length, device)
        every = _combine(bias, attention_mask)
        first: Tensor = every
        mask = self.config.mask_token_id
        if self.config.skip_masked_keys and self.config.opened < 1 and mask is not None and input_ids is not None:
            masked = input_ids.eq(mask)[:, None, None, :]
            hidden = masked & ~torch.eye(length, dtype=torch.bool, device=device)
            first = torch.where(hidden, every + ajar(self.config.opened), every)
        if self.config.time_conditioning:
            rest["inputs_embeds"], input_ids = self._told(input_ids, attention_mask), None
        return self.layered(every, input_ids, first_layer_mask=first, **rest)

    def layered(self, every: Tensor, input_ids: Tensor | None, position_ids: Tensor | None = None, **rest: Any) -> Any:
        """ModernBertModel's own forward, with a mask for all layers, [1 or B, H, C, K] bool or additive.

        With `only` [B, C] bool, last hidden states are [N, D], of its N cells.
        """
        found = self.passed(every, input_ids, position_ids, 0, **rest)
        if found is not None:
            return BaseModelOutput(last_hidden_state=found)
        masks, only = {"full_attention": every, "sliding_attention": every}, rest.pop("only", None)
        whole = ModernBertModel.forward(
            self, input_ids=input_ids, attention_mask=masks, position_ids=position_ids, **rest
        )
        return whole if only is None else BaseModelOutput(last_hidden_state=whole.last_hidden_state[only])


class OnDirectionalTrunk(_Fresh):
    """A ModernBERT class whose trunk is replaced by the directional one."""

    config_class = DirectionalConfig
    trunk_class = DirectionalModel

    def __init__(self, config: DirectionalConfig):
        super().__init__(config)  # type: ignore[call-arg]
        self.model = self.trunk_class(config)
        self.post_init()  # type: ignore[attr-defined]


class DirectionalForMaskedLM(OnDirectionalTrunk, ModernBertForMaskedLM):
    """ModernBertForMaskedLM on the directional trunk."""


class DirectionalForTokenClassification(OnDirectionalTrunk, ModernBertForTokenClassification):
    """ModernBertForTokenClassification on the directional trunk."""


class DirectionalForSequenceClassification(OnDirectionalTrunk, ModernBertForSequenceClassification):
    """ModernBertForSequenceClassification on the directional trunk."""


def directional_configs(net: nn.Module) -> list[DirectionalConfig]:
    """The configs of all trunks with directional heads inside: a generator's and a discriminator's alike."""
    found = [module.config for module in net.modules() if isinstance(module, DirectionalModel)]
    return [config for config in found if config.directed]


def open_heads(net: nn.Module, opened: float) -> None:
    """Let the directional heads of a net become ordinary ones, `opened` in [0, 1]."""
    for config in directional_configs(net):
        config.opened = float(opened)


def plain_config(config: DirectionalConfig) -> dict[str, Any]:
    """The config.json of the plain ModernBERT that a net with fully opened heads is, weight for weight."""
    own = {*DirectionalConfig.__annotations__, "model_type"}
    values = {name: value for name, value in config.to_dict().items() if name not in own}
    heads = [name.replace("Directional", "ModernBert") for name in values.get("architectures") or ()]
    return {**values, "architectures": heads, "model_type": ModernBertConfig.model_type}


class DirectionalDecoderModel(LeanModel, ModernBertDecoderModel):
    """The causal trunk with a distance penalty; works with the key-value cache of `generate()`."""

    config: DirectionalDecoderConfig
    _no_split_modules = ("ModernBertDecoderEmbeddings", "LeanDecoderLayer")

    def __init__(self, config: DirectionalDecoderConfig):
        super().__init__(config)
        make_lean(self.layers, LeanDecoderLayer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **rest: Any,
    ) -> Any:
        """As ModernBertDecoderModel's; `attention_mask` is [B, K] (1 = seen) or [B, 1, L, L] bool, or None."""
        source = input_ids if input_ids is not None else rest["inputs_embeds"]
        queries, device = source.shape[1], source.device
        keys = queries + (past_key_values.get_seq_length() if past_key_values is not None else 0)
        slopes = self.config.head_slopes
        assert slopes is not None
        bias = directional_bias([LEFT] * len(slopes), slopes, offsets(queries, keys, device))
        if isinstance(attention_mask, dict):
            attention_mask = None
        if attention_mask is not None and attention_mask.ndim == 2:
            self_key = offsets(queries, keys, device) == 0
            attention_mask = attention_mask.bool()[:, None, None, :] | self_key
        every = _combine(bias, attention_mask)
        if past_key_values is not None or not rest.get("use_cache", self.config.use_cache):
            told = {name: value for name, value in rest.items() if name not in ("use_cache", "position_ids")}
            place, past = rest.get("position_ids"), keys - queries
            found = self.passed(every, input_ids, place, past, past_key_values=past_key_values, **told)
            if found is not None:
                return BaseModelOutputWithPast(last_hidden_state=found, past_key_values=past_key_values)
        return super().forward(
            input_ids=input_ids,
            attention_mask={"full_attention": every, "sliding_attention": every},
            past_key_values=past_key_values,
            **rest,
        )


class DirectionalForCausalLM(ModernBertDecoderForCausalLM):
    """ModernBertDecoderForCausalLM on the causal trunk with a distance penalty."""

    config_class = DirectionalDecoderConfig

    def __init__(self, config: DirectionalDecoderConfig):
        if config.head_slopes is None:
            config.head_slopes = default_slopes(config.num_attention_heads)["head_slopes"]
        super().__init__(config)
        config._attn_implementation = attention.NAME
        self.model = DirectionalDecoderModel(config)
        self.post_init()


def register() -> None:
    """Let transformers' Auto classes open these checkpoints."""
    AutoConfig.register(DirectionalConfig.model_type, DirectionalConfig, exist_ok=True)
    AutoConfig.register(DirectionalDecoderConfig.model_type, DirectionalDecoderConfig, exist_ok=True)
    AutoModel.register(DirectionalConfig, DirectionalModel, exist_ok=True)
    AutoModelForMaskedLM.register(DirectionalConfig, DirectionalForMaskedLM, exist_ok=True)
    AutoModelForTokenClassification.register(DirectionalConfig, DirectionalForTokenClassification, exist_ok=True)
    AutoModelForSequenceClassification.register(DirectionalConfig, DirectionalForSequenceClassification, exist_ok=True)
    AutoModelForCausalLM.register(DirectionalDecoderConfig, DirectionalForCausalLM, exist_ok=True)


register()
