"""Generator and discriminator as one module, so that optimizer, checkpoint and sharding see both.

The generator is a masked language model; the discriminator is a replaced-token detector, or, in the ablations that
predict tokens, a masked language model of its own (Clark et al. 2020, arXiv 2003.10555, sections 2 and 3.4).
Written out, the pair is two ordinary Hugging Face directories: DIR is the discriminator, DIR/generator the generator.
Shapes: B batch, L length, D width, N cells.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from remask.core.errors import BadInput
from remask.nets.detector import Detector
from remask.nets.hf import HuggingFaceNet
from remask.nets.share import share
from remask.nets.trunk import Trunk

GENERATOR = "generator"
RAW = "pair.safetensors"


class Pair(nn.Module):
    """What ELECTRA trains.

    generator: any masked language model; discriminator: a Detector or another one; how: its embeddings' sharing;
    keep_generator: a shared table is the generator's; copy_gate: the discriminator decides whether to copy its input.
    """

    causal = False

    def __init__(
        self,
        generator: HuggingFaceNet,
        discriminator: Detector | HuggingFaceNet,
        how: str = "none",
        *,
        keep_generator: bool = False,
        copy_gate: bool = False,
    ):
        super().__init__()
        if generator.vocabulary != discriminator.vocabulary:
            raise BadInput(
                f"the generator has {generator.vocabulary} ids and the discriminator {discriminator.vocabulary}: both "
                "must read one vocabulary, so type --generator or --init with the same tokenizer."
            )
        share(generator.model, discriminator.model, how, keep_generator=keep_generator)
        self.generator = generator
        self.discriminator = discriminator
        width = discriminator.model.config.hidden_size
        self.copy_gate = nn.Linear(width, 1) if copy_gate else None
        if self.copy_gate is not None:
            nn.init.zeros_(self.copy_gate.weight)
            nn.init.zeros_(self.copy_gate.bias)
        self.stage: Tensor
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    @property
    def detects(self) -> bool:
        """Whether the discriminator scores tokens (and does not predict them)."""
        return isinstance(self.discriminator, Detector)

    @property
    def length(self) -> int:
        """The longest row that both can read."""
        return min(self.generator.length, self.discriminator.length)

    @property
    def vocabulary(self) -> int:
        """Ids of both, V."""
        return self.discriminator.vocabulary

    @property
    def trunk(self) -> Trunk:
        """The net that stays: the discriminator's."""
        return self.discriminator

    def copy_generator(self) -> None:
        """Give the discriminator the generator's trunk (two-stage training)."""
        self.check_same_size()
        self.discriminator.model.base_model.load_state_dict(self.generator.model.base_model.state_dict())

    def check_same_size(self) -> None:
        """Raise BadInput unless the two trunks have the same parameters."""
        theirs, ours = (net.model.base_model.state_dict() for net in (self.generator, self.discriminator))
        if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours.items()}:
            raise BadInput(
                "two-stage training copies the generator into the discriminator, so they must be of one size: type "
                "--generator-width 1 --generator-depth 1 --share none."
            )

    def save(self, directory: Path, *, training: bool = False) -> list[Path]:
        """Write both as standard directories, and with `training` the raw parameters; returns the directories."""
        self.discriminator.save(directory)
        self.generator.save(directory / GENERATOR)
        if training:
            save_model(self, str(directory / RAW))
        return [directory, directory / GENERATOR]

    def restore(self, directory: Path) -> None:
        """Take the raw parameters, exactly."""
        load_model(self, str(directory / RAW))
