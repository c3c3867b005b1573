"""ELECTRA on tiny real nets: losses against whole logits, and who gets which gradient."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.nets.share import Disentangled
from remask.objectives.electra import ELECTRA, SCORES, gated
from tests.nets.tiny import ALPHABET, MASK, V, make, text

SHARES = ["none", "shared", "gdes"]


def real_case(objective, family="bert", rows=6, length=14):
    """A pair of tiny nets, a question with two documents a row, and its stream."""
    net = objective.furnish(make(family)).eval()
    documents = (torch.arange(length) >= 9).long().expand(rows, -1)
    stream = Stream.of(0, rows)
    return net, objective.corrupt(Batch.of(text(rows, length), ALPHABET, documents), stream), stream


def grads(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


# ---- losses on real nets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "electra", "modernbert", "remask-modernbert"])
@torch.no_grad()
def test_detection_is_the_binary_cross_entropy_of_all_logits(family):
    """The model's own forward pass over the corrupted rows, one document at a time."""
    objective = ELECTRA(mask_rate=0.4)
    net, question, stream = real_case(objective, family)
    corrupted = objective.replace(net, question, stream)[1]
    rows = [(corrupted.tokens[:, part], corrupted.replaced[:, part]) for part in (slice(0, 9), slice(9, 14))]
    total = 0.0
    for tokens, labels in rows:
        logits = net.discriminator.model(input_ids=tokens).logits.flatten(1).view(*tokens.shape)
        total += float(binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum"))
    term = objective(net, question, stream).terms[1]
    assert float(term.total) == pytest.approx(total, rel=2e-5)
    assert (float(term.count), term.weight) == (question.at.numel(), 50.0)
    summed = ELECTRA(mask_rate=0.4, score_scale="sum")(net, question, stream).terms[1]
    assert float(summed.total) == float(term.total), "where all cells are scored the two scales agree"


@pytest.mark.parametrize("score", ["masked", "random", "balanced", "half"])
@torch.no_grad()
def test_parts_of_the_logits_where_parts_are_scored(score):
    objective = ELECTRA(mask_rate=0.4, score=score, score_scale="sum", share="none")
    net, question, stream = real_case(objective, "remask-modernbert")
    corrupted = objective.replace(net, question, stream)[1]
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)
    logits = net.discriminator.scores(hidden.flatten(0, 1)).view(question.at.shape)
    cells = SCORES[score](question.at, corrupted, stream.uniform(0, Purpose.SCORE, 14))
    wanted = binary_cross_entropy_with_logits(logits[cells], corrupted.replaced[cells].float(), reduction="sum")
    assert float(objective(net, question, stream).terms[1].total) == pytest.approx(float(wanted), rel=1e-5)


@torch.no_grad()
def test_replace_mlm_is_the_cross_entropy_of_the_chosen_cells():
    objective = ELECTRA(task="replace-mlm", mask_rate=0.4)
    net, question, stream = real_case(objective)
    corrupted = objective.replace(net, question, stream)[1]
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)
    logits = net.discriminator.logits(hidden[question.at]).masked_fill(torch.arange(V) == MASK, -torch.inf)
    term = objective(net, question, stream).terms[1]
    wanted = cross_entropy(logits, question.targets[question.at], reduction="sum")
    assert float(term.total) == pytest.approx(float(wanted), rel=1e-5)
    assert (float(term.count), term.weight, net.detects) == (int(question.at.sum()), 1.0, False)


def naive(objective, net, question, corrupted):
    """All-Tokens MLM in probabilities: D 1[x = input] + (1 - D) softmax(x)."""
    hidden = net.discriminator.hidden(corrupted.tokens, documents=question.documents)
    logits = net.discriminator.logits(hidden.flatten(0, 1)).masked_fill(torch.arange(V) == MASK, -torch.inf)
    own = logits.softmax(1).gather(1, question.targets.view(-1, 1))[:, 0]
    gate = torch.sigmoid(net.copy_gate(hidden.flatten(0, 1))[:, 0])
    copied = (corrupted.tokens == question.targets).flatten()
    return -(gate * copied + (1 - gate) * own).log().sum()


def test_all_tokens_is_the_gate_in_probabilities_values_and_gradients():
    objective = ELECTRA(task="all-tokens", mask_rate=0.4)
    net, question, stream = real_case(objective)
    net.double()
    with torch.no_grad():
        net.copy_gate.weight.normal_(generator=torch.Generator().manual_seed(0))
    corrupted = objective.replace(net, question, stream)[1]
    term = objective(net, question, stream).terms[1]
    wanted = naive(objective, net, question, corrupted)
    assert float(term.total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-10)
    assert float(term.count) == question.at.numel()
    found = {}
    for name, total in (("ours", term.total), ("naive", wanted)):
        net.zero_grad()
        total.backward()
        found[name] = grads(net)
    assert found["ours"].keys() == found["naive"].keys()
    assert any("copy_gate" in name for name in found["ours"])
    for name, grad in found["ours"].items():
        torch.testing.assert_close(grad, found["naive"][name], rtol=1e-8, atol=1e-10)


def test_the_gate_by_itself_and_at_its_ends():
    generator = torch.Generator().manual_seed(0)
    log_prob = torch.rand(12, generator=generator, dtype=torch.float64).log().requires_grad_()
    gate = torch.randn(12, generator=generator, dtype=torch.float64).requires_grad_()
    copied = torch.arange(12) % 3 == 0
    assert torch.autograd.gradcheck(lambda a, b: gated(a, b, copied), (log_prob, gate))
    d = torch.sigmoid(gate)
    torch.testing.assert_close(gated(log_prob, gate, copied).exp(), d * copied + (1 - d) * log_prob.exp())
    far = torch.tensor([900.0, -900.0, 900.0, -900.0], dtype=torch.float64)
    value = gated(torch.full((4,), -3.0, dtype=torch.float64), far, torch.tensor([True, True, False, False]))
    torch.testing.assert_close(value, torch.tensor([0.0, -3.0, -903.0, -3.0], dtype=torch.float64))


def test_a_new_gate_copies_half_and_is_part_of_the_net():
    net = ELECTRA(task="all-tokens").furnish(make("bert"))
    assert not any(p.any() for p in net.copy_gate.parameters())
    assert ELECTRA().furnish(make("bert")).copy_gate is None


# ---- who gets which gradient -----------------------------------------------------------------------------------------


def both_gradients(objective, family, **settings):
    """Gradients of the generator's term alone, and of the whole loss."""
    net, question, stream = real_case(objective, family, **settings)
    found = []
    for whole in (False, True):
        net.zero_grad()
        loss = objective(net, question, stream)
        (loss.mean() if whole else loss.terms[0].weight * loss.terms[0].total / loss.terms[0].count).backward()
        found.append(grads(net))
    return net, *found


@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("family", ["bert", "electra", "modernbert", "remask-modernbert"])
@pytest.mark.parametrize("share", SHARES)
def test_the_discriminator_never_pulls_at_the_generator(share, family, width):
    """Bit for bit the gradients of its own loss; of what is shared, both losses'."""
    net, own, whole = both_gradients(ELECTRA(share=share, mask_rate=0.4, generator_width=width), family)
    ours = {id(p) for p in net.discriminator.parameters()}
    generator = dict(net.generator.named_parameters(prefix="generator"))
    assert own
    table = 0
    for name, parameter in generator.items():
        if share == "shared" and id(parameter) in ours:
            assert not torch.equal(own[name], whole[name]), f"{name} is shared, and hears one of the two alone"
            table += parameter.shape[0] == V
        else:
            assert (name in own) == (name in whole)
            assert name not in own or torch.equal(own[name], whole[name]), f"the discriminator moves {name}"
    assert table == (share == "shared")
    assert any(name.startswith("discriminator") for name in whole)


@pytest.mark.parametrize("family", ["bert", "remask-modernbert"])
def test_disentangled_tables_learn_a_difference(family):
    objective = ELECTRA(share="gdes", mask_rate=0.4, generator_width=1.0)
    net, question, stream = real_case(objective, family)
    objective(net, question, stream).terms[1].total.backward()
    tables = [m for m in net.discriminator.modules() if isinstance(m, Disentangled)]
    assert tables
    for table in tables:
        assert table.base.grad is None or not table.base.grad.any()
        assert table.delta.grad.any()
        assert not table.delta.any(), "the difference is nothing at first"
        assert any(table.base is p for p in net.generator.parameters())
    loss = objective(net, question, stream)
    net.zero_grad()
    loss.terms[0].total.backward()
    assert tables[0].base.grad.any(), "the generator does move the base"
    assert not any(p.grad is not None and p.grad.any() for p in (t.delta for t in tables))


def test_a_leak_from_the_discriminator_would_show():
    """The planted bug: gdes without its stop."""
    objective = ELECTRA(share="gdes", mask_rate=0.4, generator_width=1.0)
    net, question, stream = real_case(objective)
    table = next(m for m in net.discriminator.modules() if isinstance(m, Disentangled))
    table.forward = lambda ids: (table.base + table.delta)[ids]
    objective(net, question, stream).terms[1].total.backward()
    assert table.base.grad.any()


def test_a_frozen_generator_learns_nothing_and_still_writes():
    objective = ELECTRA(freeze_generator=True, share="gdes", generator="elsewhere", mask_rate=0.4)
    net = objective.furnish(make("bert"), generator=make("bert", seed=5)).eval()
    question = objective.corrupt(Batch.of(text(6, 14), ALPHABET), Stream.of(0, 6))
    loss = objective(net, question, Stream.of(0, 6))
    mlm, detection = (float(term.total.detach() / term.count) for term in loss.terms)
    assert mlm > 0, "its loss is told"
    assert float(loss.mean().detach()) == pytest.approx(50 * detection, rel=1e-6)
    loss.mean().backward()
    assert not any(p.grad is not None and p.grad.any() for p in net.generator.parameters())
    assert any(p.grad is not None and p.grad.any() for p in net.discriminator.parameters())
    free = ELECTRA(share="gdes", generator="elsewhere", mask_rate=0.4)
    drawn = [one.replace(net, question, Stream.of(0, 6))[1].tokens for one in (objective, free)]
    assert torch.equal(*drawn)


# ---- two stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["detection", "replace-mlm"])
def test_two_stages(task):
    objective = ELECTRA(
        task=task, two_stage=True, share="none", generator_width=1.0, generator_depth=1.0, mask_rate=0.4
    )
    net, question, stream = real_case(objective)
    objective.turn(net, 0.49)
    loss = objective(net, question, stream)
    mlm = loss.terms[0].total.detach() / loss.terms[0].count
    assert float(loss.mean().detach()) == pytest.approx(float(mlm), rel=1e-12)
    loss.mean().backward()
    assert not any(p.grad is not None and p.grad.any() for p in net.discriminator.parameters())
    assert grads(net)
    theirs, ours = (part.model.base_model for part in (net.generator, net.discriminator))
    assert not all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters()))
    objective.turn(net, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    net.zero_grad()
    loss = objective(net, question, stream)
    assert (loss.terms[0].weight, int(net.stage)) == (0.0, 1)
    loss.mean().backward()
    assert not any(p.grad is not None and p.grad.any() for p in net.generator.parameters())
    assert any(p.grad is not None and p.grad.any() for p in net.discriminator.parameters())
    with torch.no_grad():
        next(ours.parameters()).add_(1)
    objective.turn(net, 0.6)
    assert not torch.equal(next(theirs.parameters()), next(ours.parameters())), "copied once, not at every step"
    assert int(net.state_dict()["stage"]) == 1, "a resumed run knows its stage"


def test_one_stage_never_turns():
    net, *_ = real_case(ELECTRA(share="none", generator_width=1.0))
    ELECTRA(share="none", generator_width=1.0).turn(net, 0.9)
    assert int(net.stage) == 0


def test_two_stages_need_one_size():
    objective = ELECTRA(two_stage=True, share="none", generator="elsewhere")
    with pytest.raises(BadInput, match="one size"):
        objective.furnish(make("bert"), generator=make("electra"))


def test_a_frozen_generator_draws_without_dropout_and_a_learning_one_with_it():
    """A fixed net draws from the law that it has learned; the pair is in training mode throughout."""
    drawn = {}
    for frozen in (True, False):
        objective = ELECTRA(mask_rate=0.5, share="none", generator="somewhere", freeze_generator=frozen)
        net = objective.furnish(make("bert"), generator=make("bert"))
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        _, question, stream = real_case(objective)
        twice = []
        for seed in (0, 1):  # torch's own generator decides what dropout drops
            torch.manual_seed(seed)
            term, _ = objective.replace(net.train(), question, stream)
            twice.append(float(term.total.detach()))
        drawn[frozen] = twice[0] == twice[1]
        assert net.generator.training, "the generator is left in the mode that it was in"
    assert drawn == {True: True, False: False}
