"""The chunked cross-entropy against torch's own, values and gradients, and the tensors that it never makes."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remask.core.draw import inverse_cdf, inverse_cdf_of
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.nets import cross_entropy
from tests.nets.tiny import MASK, V, gap, make, masked, text

D, WORDS = 7, 17


@pytest.fixture
def small_chunks(monkeypatch):
    """Three rows at a time."""
    monkeypatch.setattr(cross_entropy, "CELLS", 3 * WORDS)
    monkeypatch.setattr(cross_entropy, "LEAST_ROWS", 2)


def problem(n, bias, ban=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(0, WORDS, (n,), generator=generator)
    targets = torch.where(targets == ban, (targets + 1) % WORDS, targets) if ban is not None else targets
    weight = torch.rand(n, generator=generator, dtype=torch.float64) * 3
    leaves = [normal(n, D), normal(WORDS, D), *([normal(WORDS)] if bias else [])]
    return leaves, targets, weight


def plain(leaves, targets, ban):
    hidden, matrix, *rest = leaves
    scores = hidden @ matrix.T + (rest[0] if rest else 0)
    if ban is not None:
        scores = scores.masked_fill(torch.arange(WORDS) == ban, -torch.inf)
    return -scores.log_softmax(1).gather(1, targets[:, None])[:, 0]


def ours(name, leaves, targets, weight, ban):
    hidden, matrix, *rest = leaves
    bias = rest[0] if rest else None
    if name == "total_nll":
        return cross_entropy.total_nll(hidden, matrix, bias, targets, weight, ban)
    return cross_entropy.nll(hidden, matrix, bias, targets, ban)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("ban", [None, 5, 0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 7, 10])
@pytest.mark.parametrize("name", ["total_nll", "nll"])
def test_values_and_gradients_are_torchs(name, n, bias, ban):
    leaves, targets, weight = problem(n, bias, ban)
    value, expected = ours(name, leaves, targets, weight, ban), plain(leaves, targets, ban)
    if name == "total_nll":
        expected, upstream = (expected * weight).sum(), torch.tensor(-1.7, dtype=torch.float64)
    else:
        upstream = weight - 1  # of both signs, a different one for every cell
    assert value.dtype == torch.float64
    assert value.shape == expected.shape
    assert torch.allclose(value, expected, rtol=0, atol=1e-10)
    found = torch.autograd.grad(value, leaves, upstream)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
    if ban is not None and bias:
        assert found[2][ban] == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["total_nll", "nll"])
def test_gradcheck(name):
    leaves, targets, weight = problem(7, True, 5)
    assert torch.autograd.gradcheck(lambda *x: ours(name, list(x), targets, weight, 5), leaves)


@pytest.mark.usefixtures("small_chunks")
def test_a_bug_in_the_last_chunk_would_show(monkeypatch):
    leaves, targets, weight = problem(10, True)
    scores, calls = cross_entropy.scores, []

    def wrong(*args):
        calls.append(len(args[0]))
        return scores(*args) * (1.01 if calls[-1] == 1 else 1)

    monkeypatch.setattr(cross_entropy, "scores", wrong)
    value = ours("total_nll", leaves, targets, weight, None)
    assert calls == [3, 3, 3, 1]
    assert not torch.allclose(value, (plain(leaves, targets, None) * weight).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("name", ["total_nll", "nll"])
def test_a_frozen_input_leaves_the_others_gradients_alone(name, frozen):
    leaves, targets, weight = problem(10, True)
    leaves[frozen].requires_grad_(False)
    rest = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad((ours(name, leaves, targets, weight, None) * 1.5).sum(), rest)
    cell = weight if name == "total_nll" else torch.ones_like(weight)
    wanted = torch.autograd.grad((plain(leaves, targets, None) * cell).sum() * 1.5, rest)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["total_nll", "nll"])
def test_under_bf16_autocast_the_sums_stay_in_full_precision(name):
    leaves, targets, weight = problem(10, True, 5, torch.float32)
    weight = weight.float()
    with torch.autocast("cpu", torch.bfloat16):
        value = ours(name, leaves, targets, weight, 5)
    assert value.dtype == (torch.float64 if name == "total_nll" else torch.float32)
    rounded = [leaf.detach().bfloat16().float().requires_grad_() for leaf in leaves[:2]] + leaves[2:]
    expected = plain(rounded, targets, 5)
    cell = weight if name == "total_nll" else weight - 1
    found = torch.autograd.grad(value if name == "total_nll" else (value * cell).sum(), leaves)
    wanted = torch.autograd.grad((expected * cell).sum(), rounded)
    expected = (expected * cell).sum() if name == "total_nll" else expected
    # a logit of size z is rounded to z / 256, and so are the products in the gradients; leaves were rounded above
    assert torch.allclose(value.float(), expected, rtol=1e-2, atol=5e-2)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.999
        assert (one - other).abs().max() < 0.03 * other.abs().max()


@pytest.mark.parametrize("family", ["bert", "modernbert", "remask-modernbert", "deberta-new"])
@pytest.mark.parametrize("name", ["total_nll", "nll"])
def test_a_tied_matrix_gets_the_gradients_of_both_its_ends(family, name):
    net = make(family)
    tokens, targets = masked(text(2, 12)), text(2, 12, seed=3)
    weight = torch.linspace(0, 2, tokens.numel())
    embedding = net.model.get_input_embeddings().weight
    hidden = net.hidden(tokens).flatten(0, 1)
    if name == "total_nll":
        net.total_nll(hidden, targets.flatten(), weight, MASK).backward()
    else:
        (net.nll(hidden, targets.flatten(), MASK) * weight).sum().backward()
    found = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    scores = net.model(input_ids=tokens).logits.flatten(0, 1)
    scores = scores.masked_fill(torch.arange(V) == MASK, -torch.inf)
    (nn.functional.cross_entropy(scores, targets.flatten(), reduction="none") * weight).sum().backward()
    wanted = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    assert all((found[n] - wanted[n]).abs().max() < 1e-5 * scale for n in wanted)
    unseen = next(i for i in range(V) if i not in tokens and i not in targets)
    assert embedding.grad[unseen].abs().max() > 0  # the output end
    assert embedding.grad[MASK].abs().max() > 0  # banned, so the input end alone


# what is never made


PRODUCTS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.mm.out,
    torch.ops.aten.addmm.default,
    torch.ops.aten.matmul.default,
]


class Counter(TorchDispatchMode):
    """The largest tensor that any operation makes, and how many matrix products there are."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        self.products += func in PRODUCTS
        return out


N, MANY = 4096, 5000


def large():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, 8, generator=generator).requires_grad_()
    matrix = torch.randn(MANY, 8, generator=generator).requires_grad_()
    bias = torch.zeros(MANY, requires_grad=True)
    return hidden, matrix, bias, torch.randint(0, MANY, (N,), generator=generator)


def test_the_full_matrix_of_logits_is_never_made():
    hidden, matrix, bias, targets = large()
    weight = torch.ones(N)
    with Counter() as fused:
        cross_entropy.total_nll(hidden, matrix, bias, targets, weight, 3).backward()
    with Counter() as cells:
        (cross_entropy.nll(hidden, matrix, bias, targets, 3) * weight).sum().backward()
    assert fused.largest <= cross_entropy.CELLS < N * MANY / 4
    assert cells.largest <= cross_entropy.CELLS
    with Counter() as whole:  # what the counter sees when it is made
        nn.functional.cross_entropy(nn.functional.linear(hidden, matrix, bias), targets).backward()
    assert whole.largest == N * MANY


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_alone_cost_no_gradient(mode):
    hidden, matrix, bias, targets = large()
    chunks = -(-N // (cross_entropy.CELLS // MANY))
    with mode(), Counter() as alone:
        cross_entropy.total_nll(hidden, matrix, bias, targets, torch.ones(N))
    assert alone.products == chunks
    with Counter() as trained:
        cross_entropy.total_nll(hidden, matrix, bias, targets, torch.ones(N))
    assert trained.products == 3 * chunks
    assert gap(torch.tensor(alone.largest), torch.tensor(trained.largest)) == 0


def test_a_cell_without_weight_may_have_a_banned_target():
    hidden = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64)
    total = cross_entropy.total_nll(hidden, weight, None, torch.tensor([1, 2, 0]), torch.tensor([1.0, 2.0, 0.0]), ban=2)
    assert total.isinf()  # a cell that counts has an impossible target: that is what it says
    total = cross_entropy.total_nll(hidden, weight, None, torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.0, 1.0]), ban=2)
    total.backward()
    assert total.isfinite() and hidden.grad.isfinite().all() and (hidden.grad[1] == 0).all()


# draws in the same pass


def uniforms(n, seed=0):
    return Stream.of(seed, n).uniform(0, Purpose.TOKEN, 1)[:, 0]


def with_draws(leaves, targets, weight, ban, temperature=1.0):
    hidden, matrix, *rest = leaves
    bias = rest[0] if rest else None
    u = uniforms(len(targets))
    return cross_entropy.total_nll_and_draw(hidden, matrix, bias, targets, weight, u, ban, temperature)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
@pytest.mark.parametrize("ban", [None, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 7, 10, 300])
def test_drawing_changes_neither_total_nor_gradients_and_draws_by_inverse_cdf(n, bias, ban, temperature):
    """float64: to the last bit the total without draws, and the tokens of log softmax with the same numbers."""
    leaves, targets, weight = problem(n, bias, ban)
    total, drawn = with_draws(leaves, targets, weight, ban, temperature)
    plainly = ours("total_nll", leaves, targets, weight, ban)
    assert torch.equal(total, plainly)
    assert not drawn.requires_grad
    found, wanted = (torch.autograd.grad(value, leaves) for value in (total, plainly))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    hidden, matrix, *rest = leaves
    scores = cross_entropy.scores(hidden.detach(), matrix.detach(), rest[0].detach() if rest else None, ban)
    assert torch.equal(drawn, inverse_cdf(scores.log_softmax(1) / temperature, uniforms(n)))
    assert drawn.shape == (n,)
    assert ban not in drawn.tolist()
    with torch.no_grad():
        assert torch.equal(with_draws(leaves, targets, weight, ban, temperature)[1], drawn)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [100, 128, 257, 1000])
def test_float32_draws_differ_at_edges_of_the_cdf_alone(size, temperature):
    """Any number of blocks of 128; where another token is drawn, the uniform lies within rounding of the edge."""
    n, generator = 3000, torch.Generator().manual_seed(size)
    hidden, matrix = torch.randn(n, D, generator=generator), torch.randn(size, D, generator=generator)
    targets, u = torch.randint(0, size, (n,), generator=generator), uniforms(n, 1)
    total, drawn = cross_entropy.total_nll_and_draw(
        hidden, matrix, None, targets, torch.ones(n), u, 3, temperature=temperature
    )
    log_prob = cross_entropy.scores(hidden.double(), matrix.double(), None, 3).log_softmax(1)
    cdf = (log_prob / temperature).softmax(1).cumsum(1)
    expected = torch.searchsorted(cdf, u[:, None], right=True)[:, 0]
    other = torch.nonzero(drawn != expected)[:, 0]
    assert len(other) < 10
    low = torch.minimum(drawn, expected)[other]
    assert ((drawn - expected)[other].abs() <= 2).all()
    assert ((cdf[other, low] - u[other]).abs() < 1e-5).all()
    wanted = -log_prob.gather(1, targets[:, None]).sum()
    assert float(total) == pytest.approx(float(wanted), rel=1e-5) or (targets == 3).any()


def test_probabilities_need_not_sum_to_one():
    prob = torch.rand(500, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prob[:, ::3] = 0
    u = uniforms(500)
    drawn = inverse_cdf_of(prob, u)
    assert torch.equal(drawn, inverse_cdf_of(prob * 2.0**-40, u))
    assert torch.equal(drawn, inverse_cdf(prob.log(), u))
    assert (drawn % 3 != 0).all()
    assert inverse_cdf_of(prob[:0], u[:0]).shape == (0,)
    with pytest.raises(BadInput, match="no token left"):
        inverse_cdf_of(prob * 0, u)


@pytest.mark.usefixtures("small_chunks")
def test_a_draw_from_another_law_would_show(monkeypatch):
    """The planted bug: the temperature is taken the wrong way round."""
    leaves, targets, weight = problem(300, True)
    right = with_draws(leaves, targets, weight, None, 2.0)[1]
    monkeypatch.setattr(cross_entropy, "_tempered", lambda exponentials, t: exponentials.pow(t))
    assert (with_draws(leaves, targets, weight, None, 2.0)[1] != right).any()


@pytest.mark.parametrize("family", ["bert", "remask-modernbert"])
def test_nets_draw_what_their_log_probabilities_say(family):
    net = make(family).double()
    tokens, targets = masked(text(3, 12)), text(3, 12, seed=3).flatten()
    with torch.no_grad():
        hidden = net.hidden(tokens).flatten(0, 1)
        weight, u = torch.ones(36, dtype=torch.float64), uniforms(36)
        total, drawn = net.total_nll_and_draw(hidden, targets, weight, u, MASK, 0.8)
        assert torch.equal(total, net.total_nll(hidden, targets, weight, MASK))
        assert torch.equal(drawn, inverse_cdf(net.log_probs(hidden, MASK) / 0.8, u))


def test_under_bf16_autocast_draws_follow_the_rounded_logits():
    leaves, targets, weight = problem(2000, True, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        drawn = with_draws(leaves, targets, weight.float(), 5)[1]
        hidden, matrix, bias = leaves
        rounded = cross_entropy.scores(hidden.bfloat16(), matrix.bfloat16(), bias, 5)
    same = drawn == inverse_cdf(rounded.log_softmax(1), uniforms(2000))
    assert same.double().mean() > 0.99, "what is drawn from is what is learnt"


def test_the_matrix_is_not_made_for_draws_either():
    hidden, matrix, bias, targets = large()
    with Counter() as drawing:
        cross_entropy.total_nll_and_draw(hidden, matrix, bias, targets, torch.ones(N), uniforms(N), 3)[0].backward()
    with Counter() as fused:
        cross_entropy.total_nll(hidden, matrix, bias, targets, torch.ones(N), 3).backward()
    assert drawing.largest <= cross_entropy.CELLS
    assert drawing.products == fused.products, "one pass over the vocabulary"
