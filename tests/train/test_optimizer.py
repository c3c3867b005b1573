"""Optimizers that step together, the learning-rate curve, and the budget that it follows."""

import copy
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remask.core.alphabet import Alphabet
from remask.nets.convert import as_detector, as_language_model, smaller
from remask.nets.encoder import build as build_net
from remask.nets.heads import head_of
from remask.nets.hf import HuggingFaceNet
from remask.nets.pair import Pair
from remask.nets.share import SHARES, Derived, Disentangled, Projected
from remask.train.budget import Budget
from remask.train.optimizer import Together, build, rate_factor, split
from remask.train.settings import DECAYS, Training
from tests.nets.tiny import MAKE, V

ALPHABET = Alphabet(40, 1, 0, 2, frozenset({0, 1, 2, 3}))


def net(family="modernbert"):
    torch.manual_seed(0)
    return HuggingFaceNet(MAKE[family]())


def push(net, optimizers, steps, first=0):
    """Steps with gradients that depend on the step's number only."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- together --------------------------------------------------------------------------------------------------------


def parts(net):
    blocks, tables, vectors = split(net)
    return (
        torch.optim.Muon(blocks, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(tables + vectors, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )


def test_together_is_each_by_itself():
    one, other = net(), net()
    push(one, [Together(parts(one))], 3)
    push(other, parts(other), 3)
    assert equal(one, other)
    assert not equal(one, net())


def test_state_survives_a_checkpoint(tmp_path):
    one = net()
    optimizer = Together(parts(one))
    push(one, [optimizer], 2)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = copy.deepcopy(one)
    again = Together(parts(other))
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    push(one, [optimizer], 2, first=2)
    push(other, [again], 2, first=2)
    assert equal(one, other)


def test_without_the_state_it_goes_another_way():
    one = net()
    optimizer = Together(parts(one))
    push(one, [optimizer], 2)
    other = copy.deepcopy(one)
    push(one, [optimizer], 1, first=2)
    push(other, [Together(parts(other))], 1, first=2)
    assert not equal(one, other)


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_scheduler_reaches_every_part(reloaded):
    one = net()
    optimizer = Together(parts(one))
    if reloaded:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    push(one, [optimizer], 1)
    scheduler.step()
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.0, 0.0]
    before = copy.deepcopy(one)
    push(one, [optimizer], 1, first=1)
    assert equal(one, before)  # at rate 0 nothing moves, in either part


# ---- which parameter goes where --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17
@pytest.mark.parametrize("family", MAKE)
def test_split_covers_every_parameter_once(family):
    module = net(family)
    blocks, tables, vectors = split(module)
    found = [id(p) for p in (*blocks, *tables, *vectors)]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in module.parameters()}
    assert {p.ndim for p in blocks} == {2}
    assert all(p.ndim == 1 or min(p.shape) == 1 for p in vectors)  # RoBERTa's only token type is a vector, too
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding) and len(m.weight) > 1}
    assert embeddings <= {id(p) for p in tables}
    assert id(head_of(module.model).weight) in {id(p) for p in tables}  # tied


MASKED = [name for name in MAKE if not name.endswith("decoder")]


def pair(family, how, width, predicts=False):
    """A generator and a discriminator; with `predicts` it predicts tokens and may copy."""
    big = net(family)
    second = as_language_model(big, 2) if predicts else as_detector(big, 2)
    if predicts:
        big = net(family)
    return Pair(smaller(big, width, 0.5, 1), second, how, copy_gate=predicts)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa of transformers 5.17
@pytest.mark.parametrize("predicts", [False, True], ids=["detects", "predicts"])
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("family", MASKED)
def test_split_of_a_pair(family, how, width, predicts):
    """Every parameter once; no table, base or delta among the blocks, and no row of a score head."""
    module = pair(family, how, width, predicts)
    blocks, tables, vectors = split(module)
    found = [id(p) for p in (*blocks, *tables, *vectors)]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in module.parameters()}
    inside = {id(p) for p in blocks}
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding):
            assert id(part.weight) not in inside
        if isinstance(part, Derived):
            assert id(part.base) not in inside
        if isinstance(part, Disentangled):
            assert id(part.delta) not in inside
            assert len(part.delta) == 1 or id(part.delta) in {id(p) for p in tables}
        if isinstance(part, Projected):
            assert id(part.projection) in inside  # a matrix like any other
    assert not any(tuple(p.shape) in {(V, w) for w in (8, 16, 32)} for p in blocks)  # no table under another name
    assert all(p.ndim == 2 and min(p.shape) > 1 for p in blocks)
    assert all(p.ndim == 1 or min(p.shape) == 1 for p in vectors)
    heads = [module.copy_gate.weight] if predicts else []
    if not predicts and family == "electra":
        heads.append(module.discriminator.model.discriminator_predictions.dense_prediction.weight)
    elif not predicts:
        heads.append(module.discriminator.model.classifier.weight)
    assert {id(p) for p in heads} <= {id(p) for p in vectors}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("how", SHARES)
def test_tables_of_a_pair_do_not_decay(how, optimizer):
    """With gradients of zero nothing but the blocks moves, whatever the weight decay."""
    module = pair("bert", how, 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build(module, Training(steps=1, optimizer=optimizer, weight_decay=0.5, learning_rate=0.1), fresh=True).step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    inside = {id(p) for p in split(module)[0]}
    assert moved == {name for name, p in module.named_parameters() if id(p) in inside}
    assert any("attention" in name for name in moved)
    assert not any("embedding" in name and "projection" not in name for name in moved)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_gets_no_gradient_does_not_move(optimizer):
    """A frozen generator, and a discriminator that waits for its stage: neither decays."""
    module = pair("bert", "none", 0.5)
    for parameter in module.discriminator.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    build(module, Training(steps=1, optimizer=optimizer, weight_decay=0.5, learning_rate=0.1), fresh=True).step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("discriminator.")}


def test_frozen_parameters_stay_out():
    module = net()
    for parameter in module.model.model.parameters():
        parameter.requires_grad_(False)
    assert sum(map(len, split(module))) == sum(p.requires_grad for p in module.parameters())


def test_build():
    module = build_net("tiny", ALPHABET, 16)
    muon, adamw = build(module, Training(steps=1), fresh=True).parts
    assert (type(muon).__name__, type(adamw).__name__) == ("Muon", "AdamW")
    assert [g["lr"] for g in (*muon.param_groups, *adamw.param_groups)] == [4e-3, 3e-3]
    assert [g["weight_decay"] for g in (*muon.param_groups, *adamw.param_groups)] == [0.1, 0.0]
    one = build(module, Training(steps=1, optimizer="adamw", weight_decay=0.2), fresh=True)
    assert [(g["lr"], g["weight_decay"], g["fused"]) for g in one.param_groups] == [
        (1e-3, 0.2, True),
        (1e-3, 0.0, True),
    ]
    assert {id(p) for g in one.param_groups for p in g["params"]} == {id(p) for p in module.parameters()}


@pytest.mark.parametrize(
    ("settings", "fresh", "wanted"),
    [
        ({}, True, (4e-3, 3e-3)),
        ({}, False, (1e-4, 1e-4)),
        ({"optimizer": "adamw"}, True, (1e-3, 1e-3)),
        ({"learning_rate": 1e-3}, True, (1e-3, 1e-3)),
        ({"learning_rate": 1e-2}, True, (1e-2, 3e-3)),
        ({"learning_rate": 1e-2, "rest_learning_rate": 5e-3}, True, (1e-2, 5e-3)),
        ({"rest_learning_rate": 5e-3}, True, (4e-3, 5e-3)),
        ({"learning_rate": 5e-5}, False, (5e-5, 5e-5)),
        ({"optimizer": "adamw", "learning_rate": 2e-3}, True, (2e-3, 1e-3)),
    ],
)
def test_rates(settings, fresh, wanted):
    assert Training(steps=1, **settings).rates(fresh) == wanted


# ---- the curve of the rate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "progress", "wanted"),
    [
        ({}, 0.0, 0.0),
        ({}, 0.025, 0.5),
        ({}, 0.05, 1.0),
        ({}, 0.5, 1.0),
        ({}, 0.8, 1.0),
        ({}, 0.9, 0.5),
        ({}, 0.95, 0.25),
        ({}, 1.0, 0.0),
        ({}, 1.5, 0.0),  # a step that began just in time
        ({}, -0.1, 0.0),
        ({"warmup": 0.0}, 0.0, 1.0),
        ({"decay": "constant"}, 0.025, 0.5),
        ({"decay": "constant"}, 1.0, 1.0),
        ({"cooldown": 0.0}, 1.0, 1.0),
        ({"cooldown": 1.0, "warmup": 0.0}, 0.25, 0.75),
        ({"decay": "cosine"}, 0.025, 0.5),
        ({"decay": "cosine"}, 0.05, 1.0),
        ({"decay": "cosine", "warmup": 0.0}, 0.5, 0.5),
        ({"decay": "cosine", "warmup": 0.5}, 0.75, 0.5),
        ({"decay": "cosine"}, 0.05 + 0.95 / 3, 0.75),
        ({"decay": "cosine"}, 1.0, 0.0),
    ],
)
def test_rate_factor(settings, progress, wanted):
    settings = {"warmup": 0.05, "cooldown": 0.2, **settings}
    assert rate_factor(Training(steps=10, **settings), progress) == pytest.approx(wanted, abs=1e-12)


unit = st.floats(0, 1)


@given(st.floats(0, 0.99), unit, st.sampled_from(DECAYS), unit, unit)
def test_rate_rises_and_then_falls(warmup, cooldown, decay, a, b):
    settings = Training(steps=10, warmup=warmup, cooldown=cooldown, decay=decay)
    early, late = sorted((a, b))
    first, second = rate_factor(settings, early), rate_factor(settings, late)
    assert 0 <= first <= 1
    assert 0 <= second <= 1
    if late < warmup:
        assert first <= second
    if early >= warmup:
        assert first >= second
        if decay == "linear" and 1 - late >= cooldown > 0:
            assert first == second == pytest.approx(1)


# ---- the budget ------------------------------------------------------------------------------------------------------


def test_a_budget_of_steps():
    budget = Budget(Training(steps=8))
    assert (budget.progress, budget.left, budget.spent) == (0.0, None, False)
    for step, progress in ((2, 0.25), (7, 0.875), (8, 1.0)):
        budget.step = step
        assert budget.progress == progress
        assert budget.spent == (step == 8)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_budget_of_time(clock):
    budget = Budget(Training(minutes=1))
    budget.start()
    clock[0] += 15
    assert (budget.seconds, budget.progress, budget.left) == (15, 0.25, 45)
    budget.pause()
    clock[0] += 1000  # an evaluation
    assert budget.seconds == 15
    budget.pause()
    budget.start()
    budget.start()
    clock[0] += 30
    assert (budget.seconds, budget.progress) == (45, 0.75)
    assert not budget.spent
    clock[0] += 15
    assert budget.spent


def test_a_resumed_budget_goes_on(clock):
    budget = Budget(Training(minutes=1))
    budget.restore(30.0, 7)
    assert (budget.step, budget.progress) == (7, 0.5)
    budget.start()
    clock[0] += 6
    assert (budget.progress, budget.left) == (0.6, pytest.approx(24))


def test_time_left_of_a_budget_of_steps(clock):
    budget = Budget(Training(steps=10))
    budget.start()
    clock[0] += 8
    budget.step = 4
    assert budget.left == pytest.approx(12)
