"""Decoders inside transformers' generate(), for people who keep their own code.

    ids = model.generate(**inputs, custom_generate=custom_generate(Beam(beam=10)), max_new_tokens=40)

What is searched is the model's own law: generate()'s processors of logits are refused, since a decoder would not see
them and its log p would be that of another law. Shapes: B prompts, P their length, L of prompt and text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from remask.core.decoder import Budget, Decoder
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.nets.causal import CausalNet


def custom_generate(decoder: Decoder) -> Callable[..., Any]:
    """A `custom_generate=` of this decoder, for causal models of transformers that keep keys and values.

    generate() then takes two words more: seed (of the draws) and nodes (prefixes that may be read for a prompt); texts
    have up to `max_new_tokens` tokens, their end counted. Prompts may be padded at their left. It returns ids [B, L],
    prompt, text, end, padding, as generate() does. Of several end tokens the first is written, with the probability of
    all. Raises BadInput for processors of logits, a beam or a temperature asked of generate() itself, or no end token,
    BadCheckpoint for a model with an encoder.
    """

    def decode(
        model: Any,
        input_ids: Tensor,
        logits_processor: Sequence[Any] = (),
        stopping_criteria: Sequence[Any] = (),
        generation_config: Any = None,
        seed: int = 0,
        nodes: int | None = None,
        **rest: Any,
    ) -> Any:
        _plain(
            [*logits_processor, *(one for one in stopping_criteria if type(one).__name__ not in OURS)],
            generation_config,
        )
        ends, training = _ends(generation_config), model.training
        seen = rest.get("attention_mask")
        real = torch.ones_like(input_ids) if seen is None else seen
        prompts = [row[kept.bool()].tolist() for row, kept in zip(input_ids, real)]
        budget = Budget(generation_config.max_length - input_ids.shape[1], nodes)
        try:
            causal = CausalNet(model, ends[0], None, ends=ends)
            found = decoder(causal, prompts, Stream.of(seed, torch.arange(len(prompts))), budget)
        finally:
            model.train(training)
        written = [row[mine] for row, mine in zip(found.canvas.tokens, found.canvas.unknown)]
        pad = ends[0] if generation_config.pad_token_id is None else generation_config.pad_token_id
        texts = torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=pad)
        sequences = torch.cat([input_ids, texts.to(input_ids.device)], 1)
        if not generation_config.return_dict_in_generate:
            return sequences
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)

    return decode


OURS = {"MaxLengthCriteria", "EosTokenCriteria"}  # texts end at their end token or with the budget anyway


def _plain(processors: Sequence[Any], config: Any) -> None:
    if config.do_sample or (config.num_beams or 1) > 1:
        raise BadInput(
            "do_sample or num_beams came with custom_generate, whose decoder has draws and beams of its own: give them "
            "to the decoder, for example Sampling(temperature=0.7) or Beam(beam=10), and do_sample=False, num_beams=1 "
            "to generate()."
        )
    if len(processors):
        names = ", ".join(type(one).__name__ for one in processors)
        raise BadInput(f"{names} came with custom_generate, whose decoder would not see it: leave its setting out.")


def _ends(config: Any) -> list[int]:
    found = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = [int(one) for one in found if one is not None]
    if not ends:
        raise BadInput("no end token came, and a decoder takes one: give generate() eos_token_id=ID.")
    return ends
