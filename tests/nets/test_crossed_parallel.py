"""A left-to-right translator that is to write in parallel: what it learnt comes along, and what is fresh is silent."""

import pytest
import torch

from remask.core.errors import BadInput
from remask.nets.crossed import clone, open_crossed
from remask.nets.crossed_parallel import parallel
from tests.nets.test_crossed import SEEN, SOURCE
from tests.nets.tiny import MASK, gap, make, shake, text

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
