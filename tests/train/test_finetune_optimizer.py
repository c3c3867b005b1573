"""Which parameter learns how fast: the head at the full rate, each layer less than the one above it."""

import pytest
import torch
import transformers

from remask.nets import directional
from remask.train.finetune_loop import batches, rate_factor
from remask.train.finetune_optimizer import build, depths, groups
from tests.nets.tiny import MAKE

# names of a family's parameters -> depth, of n layers; what is not listed is told by the layer's number in its name
KNOWN = {
    "bert": (2, {"bert.embeddings": 0, "bert.pooler": 3, "classifier": 3}, "bert.encoder.layer."),
    "roberta": (2, {"roberta.embeddings": 0, "classifier": 3}, "roberta.encoder.layer."),
    "distilbert": (
        2,
        {"distilbert.embeddings": 0, "pre_classifier": 3, "classifier": 3},
        "distilbert.transformer.layer.",
    ),
    "electra": (
        2,
        {"electra.embeddings.": 0, "electra.embeddings_project": 0, "classifier": 3},
        "electra.encoder.layer.",
    ),
    "deberta-new": (
        2,
        {
            "deberta.embeddings": 0,
            "deberta.encoder.rel_embeddings": 0,
            "deberta.encoder.LayerNorm": 0,
            "pooler": 3,
            "classifier": 3,
        },
        "deberta.encoder.layer.",
    ),
    "modernbert": (5, {"model.embeddings": 0, "model.final_norm": 6, "head": 6, "classifier": 6}, "model.layers."),
    "remask-modernbert": (
        3,
        {"model.embeddings": 0, "model.final_norm": 4, "head": 4, "classifier": 4},
        "model.layers.",
    ),
}


def classifier(family):
    directional.register()
    config = MAKE[family]().config
    config.num_labels = 3
    return transformers.AutoModelForSequenceClassification.from_config(config)


def told(name, layers, known, prefix):
    if name.startswith(prefix):
        return int(name[len(prefix) :].split(".")[0]) + 1
    (depth,) = {depth for start, depth in known.items() if name.startswith(start)}
    return depth


@pytest.mark.parametrize("family", KNOWN)
def test_depths_of_a_family(family):
    layers, known, prefix = KNOWN[family]
    model = classifier(family)
    found = depths(model)
    assert found.layers == layers
    names = [name for name, _ in model.named_parameters()]
    assert found.depth == {name: told(name, layers, known, prefix) for name in names}
    assert set(found.depth.values()) == set(range(layers + 2))
    assert all(any(name.startswith(start) for name in names) for start in known)


@pytest.mark.parametrize("family", KNOWN)
def test_multipliers(family):
    model = classifier(family)
    layers = KNOWN[family][0]
    rate, decay = 1e-3, 0.8
    of = {id(p): group for group in groups(model, rate, decay, 0.01) for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    found = depths(model).depth
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        power = {0: layers + 1, layers: 1, layers + 1: 0}.get(found[name])  # ELECTRA's code gave its top layer 2
        if power is not None:
            assert group["lr"] == pytest.approx(rate * decay**power)
        assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0)
        if "norm" in name.lower() or name.endswith("bias"):
            assert group["weight_decay"] == 0.0
    assert {group["lr"] for group in groups(model, rate, 1.0, 0.01)} == {rate}


def test_the_optimizer_steps_in_those_proportions():
    model = classifier("bert")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build(model, 1e-3, 0.5, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {
        name: float((parameter.detach() - before[name]).abs().max()) for name, parameter in model.named_parameters()
    }
    for name, depth in depths(model).depth.items():
        assert moved[name] == pytest.approx(1e-3 * 0.5 ** (3 - depth), rel=1e-2), name


def test_the_rate_rises_and_falls():
    factors = [rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1 and factors[-1] == pytest.approx(1 / 90) and min(factors) > 0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert rate_factor(0, 5, 0) == 1 and rate_factor(0, 1, 0) == 1


def test_every_epoch_holds_every_row_once_and_like_lengths_stay_together():
    lengths = [(37 * i) % 60 + 1 for i in range(1000)]
    plan = batches(lengths, 16, 2, seed=3)
    half = len(plan) // 2
    for epoch in (plan[:half], plan[half:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(1000))
    padding = sum(max(lengths[r] for r in batch) * len(batch) - sum(lengths[r] for r in batch) for batch in plan)
    assert padding < 0.05 * 2 * sum(lengths)
    assert plan[:half] != plan[half:] and plan == batches(lengths, 16, 2, seed=3) != batches(lengths, 16, 2, seed=4)
    means = [sum(lengths[r] for r in batch) / len(batch) for batch in plan[:half]]
    assert means != sorted(means)  # not from short to long
