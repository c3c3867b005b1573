"""Two ways to the same attention: matrix products (training on CPU) and SDPA (everything else)."""

from types import SimpleNamespace

import pytest
import torch

from remask.nets import attention

B, H, L, E = 2, 3, 7, 4


def case(kind, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(B, H, L, E, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]
    seen = torch.rand(B, 1, L, L, generator=generator) < 0.6
    seen = seen | torch.eye(L, dtype=torch.bool)
    bias = torch.randn(1, H, L, L, generator=generator, dtype=dtype).masked_fill(~seen, -torch.inf)
    mask = {"none": None, "causal": None, "bool": seen, "bias": bias}[kind]
    module = SimpleNamespace(layer_idx=1, is_causal=kind == "causal")
    return module, tensors, mask


def with_gradients(module, tensors, mask, **rest):
    out, _ = attention.attention(module, *tensors, mask, scaling=0.5, **rest)
    weight = torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()
    return out, torch.autograd.grad((out * weight).sum(), tensors)


@pytest.mark.parametrize("dtype, close", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "bias"])
def test_products_and_sdpa_agree_in_values_and_gradients(kind, dtype, close, monkeypatch):
    module, tensors, mask = case(kind, dtype)
    products, gradients = with_gradients(module, tensors, mask)
    monkeypatch.setattr(attention, "SHORT", 0)
    sdpa, wanted = with_gradients(module, tensors, mask)
    assert products.shape == sdpa.shape == (B, L, H, E)
    assert (products - sdpa).abs().max() < close
    assert all((a - b).abs().max() < 10 * close for a, b in zip(gradients, wanted, strict=True))


def test_a_forgotten_mask_would_be_noticed():
    module, tensors, mask = case("bool", torch.float64)
    masked, _ = with_gradients(module, tensors, mask)
    open_, _ = with_gradients(module, tensors, None)
    assert (masked - open_).abs().max() > 0.1


@pytest.mark.parametrize("layer", [0, 1])
def test_the_first_layer_has_a_mask_of_its_own(layer):
    module, tensors, mask = case("bool", torch.float64)
    module.layer_idx = layer
    other = torch.eye(L, dtype=torch.bool)[None, None]
    found, _ = with_gradients(module, tensors, mask, first_layer_mask=other)
    wanted, _ = with_gradients(SimpleNamespace(layer_idx=5, is_causal=False), tensors, other if layer == 0 else mask)
    assert torch.equal(found, wanted)
    if layer == 0:  # each position sees itself alone
        assert torch.allclose(found, tensors[2].transpose(1, 2))


def test_without_gradients_and_for_long_rows_torch_does_it(monkeypatch):
    calls = []
    inner = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: calls.append(1) or inner(*a, **k))
    module, tensors, mask = case("bias", torch.float32)
    with torch.no_grad():
        attention.attention(module, *tensors, mask, scaling=0.5)
    assert len(calls) == 1
    attention.attention(module, *tensors, mask, scaling=0.5)
    assert len(calls) == 1
    monkeypatch.setattr(attention, "SHORT", L - 1)
    attention.attention(module, *tensors, mask, scaling=0.5)
    assert len(calls) == 2
