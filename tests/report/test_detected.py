import pytest

from remask.core.errors import BadInput
from remask.report.detected import Detected, detected
from remask.report.markup import outside


def test_replaced_pieces_stand_under_their_originals_and_sure_ones_are_darker():
    html = detected([Detected([" the", " cat", " <b>"], [" the", " dog", " <b>"], [0.0, 0.9, 0.3])])
    assert '<ruby title="the original: dog">' in html and "<rt>dog</rt>" in html
    assert html.count("<ruby") == 1, "a piece that was not replaced has nothing above it"
    assert "76%" in html and "26%" in html and html.count("color-mix") == 2, "0.0 is not tinted"
    assert "p(replaced) 0.90" in html
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert outside(html) == []


def test_a_probability_beyond_one_is_drawn_as_one():
    assert "85%" in detected([Detected(["x"], ["x"], [1.5])])


def test_every_piece_needs_its_numbers():
    with pytest.raises(BadInput, match="2 pieces, 1 originals, 2 probabilities"):
        detected([Detected(["a", "b"], ["a"], [0.1, 0.2])])
