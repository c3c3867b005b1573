"""Embeddings shared by a generator and a discriminator: the same table, a projected one, or a disentangled one.

ELECTRA shares token and position embeddings and their layer norm (Clark et al. 2020, arXiv 2003.10555, section 3.2).
DeBERTaV3 stops the discriminator's gradient and lets it learn a difference, E_D = stop_gradient(E_G) + Delta with Delta
zero at first (He et al. 2021, arXiv 2111.09543, section 3.3: GDES). Where the generator is narrower than the table, it
reads E P with a learnt P: one small product a step, and a plain model of the narrow width when written out.
Shapes: V vocabulary (or positions), E width of the shared table, G width of the generator's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from remask.core.errors import BadInput


class Derived(nn.Module):
    """A table that is computed from another one; `weight` is what a plain embedding would hold.

    base: [V, E], a parameter that another module may hold as well.
    """

    def __init__(self, base: nn.Parameter):
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        """[V, width] as a function of the parameters."""
        raise NotImplementedError


class Projected(Derived):
    """base P^T: the shared table at the generator's width. P keeps the scale of the table at first."""

    def __init__(self, base: nn.Parameter, width: int):
        super().__init__(base)
        wide = base.shape[1]
        self.projection = nn.Parameter(torch.randn(width, wide, dtype=base.dtype) / math.sqrt(wide))

    @property
    def weight(self) -> Tensor:
        """[V, G]."""
        return self.base @ self.projection.T

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        return nn.functional.embedding(ids, self.base) @ self.projection.T


class Disentangled(Derived):
    """stop_gradient(base) + delta: what one net learns never pulls at the other's table."""

    def __init__(self, base: nn.Parameter, start: Tensor):
        super().__init__(base)
        self.delta = nn.Parameter((start - base).detach().clone())

    @property
    def weight(self) -> Tensor:
        """[V, E]."""
        return self.base.detach() + self.delta

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        return nn.functional.embedding(ids, self.base.detach()) + nn.functional.embedding(ids, self.delta)


SHARES = ("none", "shared", "gdes")


def share(generator: Any, discriminator: Any, how: str, *, keep_generator: bool) -> None:
    """Join the embeddings of two transformers models, in place.

    how: none, shared (one table; with it, where shapes agree, positions, token types and layer norm) or gdes (tables
    disentangled, norms apart). keep_generator: the shared table is the generator's (it was pretrained) and not the
    discriminator's. Raises BadInput where the tables cannot be one.
    """
    if how == "none":
        return
    theirs, ours = generator.base_model.embeddings, discriminator.base_model.embeddings
    tables = {name: m for name, m in ours.named_modules() if isinstance(m, nn.Embedding)}
    words = next(name for name, m in tables.items() if m is discriminator.get_input_embeddings())
    narrow, wide = generator.get_input_embeddings(), tables[words]
    if keep_generator and narrow.weight.shape != wide.weight.shape:
        raise BadInput(
            f"the generator's embedding is {tuple(narrow.weight.shape)} and the discriminator's "
            f"{tuple(wide.weight.shape)}, so they cannot be shared: type --share none."
        )
    base = narrow.weight if keep_generator else nn.Parameter(wide.weight.detach().clone())
    _tie_words(generator, narrow, base)
    others = {name: m for name, m in ours.named_modules() if name != words and _own(m)}
    twins = dict(theirs.named_modules())
    output = _tied_output(discriminator, wide)
    _join(ours, words, wide, base, how)
    if output is not None:  # a discriminator that predicts tokens does so with the table that it reads
        output.register_parameter("weight", base if how == "shared" else None)
    for name, module in others.items():
        twin = twins.get(name)
        if twin is None or not all(
            twin_p.shape == p.shape for twin_p, p in zip(twin.parameters(recurse=False), module.parameters(False))
        ):
            continue
        if isinstance(module, nn.Embedding):
            if not keep_generator:
                twin.weight.data.copy_(module.weight.data)
            _join(ours, name, module, twin.weight, how)
        elif how == "shared":
            for key, parameter in list(twin._parameters.items()):
                if parameter is not None and not keep_generator:
                    parameter.data.copy_(module._parameters[key].data)  # type: ignore[union-attr]
                module._parameters[key] = parameter


def _own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _tied_output(model: Any, words: nn.Embedding) -> Any:
    """The output layer of a model whose matrix is the input table; None where it has another one, or none."""
    output = model.get_output_embeddings()
    return output if output is not None and output.weight is words.weight else None


def _join(embeddings: nn.Module, path: str, module: nn.Embedding, base: nn.Parameter, how: str) -> None:
    """Let the discriminator read `base`: itself, or disentangled from it."""
    if how == "shared":
        module.weight = base
        return
    parent, _, name = path.rpartition(".")
    setattr(embeddings.get_submodule(parent), name, Disentangled(base, module.weight))


def _tie_words(generator: Any, narrow: nn.Embedding, base: nn.Parameter) -> None:
    """Let the generator read and predict with `base`, projected where it is narrower."""
    output = _tied_output(generator, narrow)
    same = narrow.weight.shape == base.shape
    if output is not None:
        output.register_parameter("weight", base if same else None)  # None: predicted with the input table, nets/hf.py
    if same:
        narrow.weight = base
    else:
        generator.set_input_embeddings(Projected(base, narrow.weight.shape[1]))


def plain_state(model: Any) -> dict[str, Tensor]:
    """The state dict of a model as if its derived tables were plain ones."""
    state = model.state_dict()
    for path, module in model.named_modules():
        if isinstance(module, Derived):
            for name in [key for key in state if key.startswith(f"{path}.")]:
                del state[name]
            state[f"{path}.weight"] = module.weight.detach()
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is not None and output.weight is None:
        path = next(name for name, module in model.named_modules() if module is output)
        state[f"{path}.weight"] = model.get_input_embeddings().weight.detach()
    return state


def plain(model: Any) -> Any:
    """The model itself, or, where it has derived tables, an ordinary one that gives the same outputs."""
    if not any(isinstance(module, Derived) for module in model.modules()):
        return model
    with torch.random.fork_rng(devices=[]):  # saving must not change what dropout draws next
        twin = type(model)(model.config)
    twin.load_state_dict(plain_state(model))
    return twin.to(dtype=next(model.parameters()).dtype).train(model.training)
