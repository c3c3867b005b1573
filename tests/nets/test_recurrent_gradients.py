"""Gradients through windows: where they go, that checkpointing leaves them alone, and what they cost."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from remask.nets.recurrent import RecurrentNet
from tests.nets.recurring import every_model, net_of, rows, total


def gradients(net: RecurrentNet, tokens: torch.Tensor, **rest) -> tuple[float, dict[str, torch.Tensor]]:
    net.zero_grad()
    torch.manual_seed(5)
    loss = total(net, tokens, **rest)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference, as a share of the largest gradient."""
    assert ours.keys() == theirs.keys()
    most = max(float(g.abs().max()) for g in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours) / most


@every_model
@pytest.mark.parametrize("bptt", [0, 2])
def test_checkpointing_changes_no_gradient_with_dropout_too(family, bptt):
    net = net_of(family)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
        for name in ("attention_dropout",):
            if hasattr(module, name) and isinstance(getattr(module, name), float):
                setattr(module, name, 0.1)
    net.train()
    tokens = rows(3, 14)
    (first, kept), (second, made) = (gradients(net, tokens, bptt=bptt, checkpointing=c) for c in (False, True))
    assert first == pytest.approx(second, rel=1e-12) and gap(made, kept) < 1e-6
    torch.manual_seed(6)
    assert float(total(net, tokens, bptt=bptt).detach()) != pytest.approx(first, rel=1e-6), "there is no dropout here"


def test_dropout_that_is_not_restored_would_be_seen(monkeypatch):
    """The planted twin: a checkpoint that forgets the state of the random numbers."""
    from remask.nets import recurrent

    net = net_of("gpt2")
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    net.train()
    tokens = rows(3, 14)
    kept = gradients(net, tokens, checkpointing=False)[1]
    right = recurrent.checkpoint
    monkeypatch.setattr(recurrent, "checkpoint", lambda *given, **rest: right(*given, **rest, preserve_rng_state=False))
    assert gap(gradients(net, tokens)[1], kept) > 1e-3


def test_gradients_agree_with_finite_differences():
    net = net_of("gpt2")
    tokens = rows(2, 10)
    found = gradients(net, tokens)[1]
    for name in ("adapter.write.0.weight", "adapter.keys.1.weight", "adapter.values.0.weight"):
        parameter, step = dict(net.named_parameters())[name], 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter[3, 4] += sign * step
                values.append(float(total(net, tokens).detach()))
                parameter[3, 4] -= sign * step
        assert float(found[name][3, 4]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_truncation_ends_gradients_and_leaves_values():
    """How far the loss of the last window reaches back, by the gradient of the first tokens' embeddings."""
    net = net_of("llama", window=3)
    tokens = torch.arange(12)[None]  # every token once: the row of an embedding is its cell's gradient
    reach = {}
    losses = {}
    for bptt in (0, 1, 2, 3):
        net.zero_grad()
        weight = torch.zeros(1, 12)
        weight[:, -3:] = 1
        zeros = torch.zeros_like(tokens)
        loss = net.total_nll_of_rows(tokens, tokens, weight, zeros, bptt=bptt)
        loss.backward()
        table = net.model.model.embed_tokens.weight.grad
        reach[bptt] = (table[:12].abs().amax(1) > 0).view(4, 3).any(1).tolist()
        losses[bptt] = float(loss.detach())
    assert reach[0] == [True] * 4
    assert reach[1] == [False, False, False, True]
    assert reach[2] == [False, False, True, True]
    assert reach[3] == [False, False, False, True]  # windows 0 to 2, then 3
    assert len(set(losses.values())) == 1


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside have held at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.seen:
                    self.seen[storage] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, size):
        self.now -= size


def peak(windows: int, checkpointing: bool) -> int:
    """Bytes of one forward and backward pass over so many windows of 8."""
    net = net_of("gpt2", window=8)
    tokens = rows(4, 8 * windows)
    total(net, tokens[:, :16]).backward()  # the gradients themselves are there from now on
    inputs, weight, zeros = tokens.roll(1, 1), torch.ones(tokens.shape), torch.zeros_like(tokens)
    with Peak() as bytes:
        net.total_nll_of_rows(inputs, tokens, weight, zeros, checkpointing=checkpointing).backward()
    return bytes.most


def test_memory_is_one_windows_whatever_their_number():
    """A window more costs its z and its tokens; without checkpointing it costs all its activations."""
    flat = [peak(windows, True) for windows in (2, 4, 12)]
    each = (flat[2] - flat[1]) / 8
    held = [peak(windows, False) for windows in (2, 4, 12)]
    activations = (held[2] - held[1]) / 8
    assert each < 0.03 * activations, (flat, held)
    assert flat[2] < 1.3 * flat[0] and held[2] > 3 * held[0]
