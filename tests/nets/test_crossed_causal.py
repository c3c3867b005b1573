"""A masked model and a writer that goes left to right: what is kept changes nothing, and nobody sees what comes."""

import pytest
import torch

from remask.nets.crossed import clone
from remask.translate.left_to_right import Law, greedy
from tests.nets.test_crossed import SEEN, SOURCE, logits
from tests.nets.tiny import ALPHABET, CAUSAL, gap, make, shake, text


def test_a_causal_writer_goes_from_left_to_right():
    net = clone(make("modernbert"), writer=make("modernbert-decoder", 1), longest_target=9)
    shake(net.cross)
    assert net.causal
    assert not net.encoder.causal
    assert (net.start, net.length) == (0, net.decoder.length)
    tokens = text(3, 12)
    moved = (logits(net, tokens.roll(1, 0), None)[:, :1] - logits(net, tokens, None)[:, :1]).abs()
    assert moved.any()
    changed = torch.cat([tokens[:, :8], text(3, 4, seed=9)], 1)
    difference = (logits(net, changed, None) - logits(net, tokens, None)).abs().amax(2)
    assert not difference[:, :8].any()
    assert (difference[:, 8:].amax(0) > 1e-5).all()
    assert not hasattr(net, "length_head")


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 4, 1, 1, 1], [12]], ids=str)
def test_step_by_step_a_causal_writer_says_what_it_says_at_once(family, sizes):
    net = clone(make("modernbert"), writer=make(family, 1), longest_target=9)
    shake(net.cross)
    tokens, past, found = text(3, 12), None, []
    with torch.no_grad():
        reading = net.read(SOURCE, SEEN)
        whole = reading.hidden(tokens)
        for piece in tokens.split(sizes, 1):
            old = past
            hidden, past = net.step(piece, reading.memory, past)
            found.append(hidden)
            assert old is None or old.keys[0].shape[2] + piece.shape[1] == past.keys[0].shape[2], "the old one stays"
        assert gap(torch.cat(found, 1), whole) < 1e-5
        some = torch.tensor([2, 0])
        again, _ = net.step(tokens[some, :1], reading.rows(some).memory, past.rows(some))
        one, _ = net.step(tokens[2:, :1], reading.rows(some[:1]).memory, past.rows(some[:1]))
        assert gap(again[:1], one) < 1e-5


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_writer_translates_as_by_hand(family):
    """Greedy with what is kept, and again with the whole prefix at every token."""
    net = clone(make("modernbert"), writer=make(family, 1), longest_target=9).eval()
    shake(net.cross)
    done = greedy(net, SOURCE, SEEN, ALPHABET, 10)
    law = Law(ALPHABET, torch.device("cpu"))
    for row in range(3):
        ids, text_ids = [net.start], []
        with torch.no_grad():
            reading = net.read(SOURCE[row : row + 1, : int(SEEN[row].sum())], SEEN[row : row + 1, SEEN[row]])
            while len(text_ids) < 10:
                hidden = reading.hidden(torch.tensor([ids]))[:, -1]
                ids.append(int(law(reading, hidden).argmax()))
                if ids[-1] == ALPHABET.end:
                    break
                text_ids.append(ids[-1])
        assert done.tokens[row] == text_ids
