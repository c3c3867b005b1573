"""A left-to-right translator that is to write in parallel: what it learnt comes along, and what is fresh is silent."""

import pytest
import torch

from remask.core.errors import BadInput
from remask.nets.crossed import clone, open_crossed
from remask.nets.crossed_parallel import parallel
from tests.nets.test_crossed import GIVEN, SEEN, SOURCE, spoken, target
from tests.nets.tiny import MASK, gap, make, padding, shake, text

LONGEST = 15


def causal(family, seed=0):
    net = clone(make("modernbert"), writer=make(family, 1), longest_target=9)
    shake(net.cross, seed)
    return net.eval()


@torch.no_grad()
def said(net, tokens, **rest):
    hidden = net.read(SOURCE, SEEN).hidden(tokens, **rest)
    return net.logits(hidden.flatten(0, 1)).view(*tokens.shape, -1)


def test_shown_what_lies_before_and_without_the_diagonal_it_says_what_it_said():
    net = causal("modernbert-decoder")
    made = parallel(net, MASK, LONGEST, "both")
    assert not made.causal
    tokens, before = text(3, 12), torch.ones(12, 12, dtype=torch.bool).tril()[None]
    assert gap(said(made, tokens, sees=before), said(net, tokens)) > 1e-3, "it looks along the diagonal"
    made.diagonal.weight.data.zero_()
    assert gap(said(made, tokens, sees=before), said(net, tokens)) < 1e-5
    assert gap(said(made, tokens), said(net, tokens)) > 1e-3, "it sees both sides"


def test_it_is_a_net_of_its_own_that_is_saved_and_opened(tmp_path):
    net = causal("remask-modernbert-decoder")
    before = {name: p.clone() for name, p in net.state_dict().items()}
    made = parallel(net, MASK, LONGEST, "affine")
    assert (made.length, made.length_kind) == (LONGEST + 1, "affine")
    tokens = text(3, 12)
    assert "right" in made.decoder.model.config.head_directions
    assert made.decoder.model.config.mask_token_id == MASK
    torch.manual_seed(1)
    again = parallel(net, MASK, LONGEST, "affine")
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values()))
    made.save(tmp_path / "net")
    assert gap(said(open_crossed(tmp_path / "net"), tokens), said(made, tokens)) < 1e-6
    shake(made, 9)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


def test_a_longest_target_that_does_not_fit_is_refused():
    net = causal("modernbert-decoder")
    with pytest.raises(BadInput, match="the longest target came as"):
        parallel(net, MASK, net.decoder.length, "both")


def test_what_is_known_of_targets_is_kept_while_they_are_the_same_and_no_gradient_is_wanted():
    net = spoken("remask-modernbert")
    shake(net.diagonal, 7, 1.0)
    others = padding([5, 12, 9], 12)
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        fresh = [net.read(SOURCE, SEEN).hidden(target(net.decoder), attend=given) for given in (GIVEN, others, None)]
        assert gap(fresh[0], fresh[1]) > 1e-3
        for _ in range(2):
            for given, wanted in zip((GIVEN, others, None), fresh):
                assert torch.equal(reading.hidden(target(net.decoder), attend=given), wanted)
        cut = [r.hidden(target(net.decoder)[:, :7]) for r in (reading, net.read(SOURCE, SEEN))]
        assert torch.equal(*cut)
        kept = reading.rows(torch.tensor([2, 0]))
        some = kept.hidden(target(net.decoder)[[2, 0]], attend=GIVEN[[2, 0]])
        assert gap(some, fresh[0][[2, 0]]) < 1e-5
    reading.hidden(target(net.decoder), attend=GIVEN).sum().backward()
    assert net.from_end.weight.grad is not None
    assert net.diagonal.weight.grad is not None
