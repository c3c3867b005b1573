"""Distillation goes on after a kill, byte for byte, and never mixes two runs."""

import json

import pytest

from remask.core.draw import Categorical
from remask.core.errors import BadData, BadInput, OutputExists
from remask.data.pairs import read_pairs
from remask.samplers.mask_predict import MaskPredict
from remask.translate.distill import distill, place
from tests.translate.test_lines import by_net

SOURCES = [f"line {n}" * (1 + n % 2) for n in range(40)] + ["", "tab\there", "So it goes. And so on it goes."]
SETTINGS = {"checkpoint": "teacher", "seed": 0}


class Killed(BaseException):
    """Nobody catches it."""


def run(out, after=None, sources=SOURCES, settings=SETTINGS, **rest):
    """Distil, and be killed in the middle of buffer number `after`."""
    translator, calls = by_net(MaskPredict(steps=1, draw=Categorical()), batch=4), []
    write = translator.write

    def deadly(*arguments):
        calls.append(arguments)
        if after is not None and len(calls) > after:
            raise Killed
        return write(*arguments)

    object.__setattr__(translator, "write", deadly)
    return distill(translator, sources, out, settings, **rest), len(calls)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "distilled.tsv"
    done, calls = run(out)
    assert done == 0
    return out.read_bytes(), calls


def test_the_file_holds_pairs(whole, tmp_path):
    out = tmp_path / "distilled.tsv"
    out.write_bytes(whole[0])
    pairs = read_pairs([str(out)], "source,target")
    assert [pair.source for pair in pairs] == [source.replace("\t", " ") for source in SOURCES]
    assert [bool(pair.target) for pair in pairs].count(False) <= 2


@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, after):
    out = tmp_path / "distilled.tsv"
    with pytest.raises(Killed):
        run(out, after)
    assert not out.exists()
    done, calls = run(out, resume=True)
    assert out.read_bytes() == whole[0]
    assert not place(out, ".partial").exists()
    assert done % 4 == 0
    assert calls == whole[1] - done // 4, "what was done is not done again"


@pytest.mark.parametrize("left", [1, 30, 100, 250])
def test_a_torn_write_is_cut_back_to_a_whole_buffer(whole, tmp_path, left):
    """Wherever the file ends: in a line, between lines, inside a buffer."""
    out = tmp_path / "distilled.tsv"
    with pytest.raises(Killed):
        run(out, 6)
    partial = place(out, ".partial")
    partial.write_bytes(whole[0][:left])
    run(out, resume=True)
    assert out.read_bytes() == whole[0]


def test_going_on_in_the_middle_of_a_buffer_would_change_the_draws_or_the_batches(whole, tmp_path):
    """The planted twin: other line numbers, other texts."""
    out = tmp_path / "distilled.tsv"
    run(out, sources=SOURCES[1:])
    assert out.read_bytes().split(b"\n")[5:9] != whole[0].split(b"\n")[6:10]


def test_a_finished_file_is_left_alone(whole, tmp_path):
    out = tmp_path / "distilled.tsv"
    run(out)
    done, calls = run(out, resume=True)
    assert (done, calls) == (len(SOURCES), 0)
    assert out.read_bytes() == whole[0]


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "distilled.tsv"
    run(out, sources=SOURCES[:3])
    with pytest.raises(OutputExists, match="--resume"):
        run(out)
    run(out, sources=SOURCES[:5], overwrite=True)
    assert len(out.read_bytes().splitlines()) == 5
    with pytest.raises(BadInput, match="one of them"):
        run(out, resume=True, overwrite=True)
    with pytest.raises(BadInput, match=r"\.tsv"):
        run(tmp_path / "distilled.txt")


def test_other_settings_or_sources_are_not_mixed_in(tmp_path):
    out = tmp_path / "distilled.tsv"
    with pytest.raises(Killed):
        run(out, 4)
    with pytest.raises(BadInput, match="begun with seed 0, and now it is 1"):
        run(out, settings={**SETTINGS, "seed": 1}, resume=True)
    with pytest.raises(BadData, match=r"line 2 of .* another source"):
        run(out, sources=[SOURCES[0], "new", *SOURCES[2:]], resume=True)
    with pytest.raises(BadData, match="another source"):
        run(out, sources=SOURCES[:2], resume=True)
    place(out, ".json").write_text("{")
    with pytest.raises(BadInput, match="--overwrite"):
        run(out, resume=True)
    assert not out.exists()


def test_the_record_says_how_it_was_made(tmp_path):
    out = tmp_path / "distilled.tsv"
    run(out, sources=SOURCES[:3])
    assert json.loads(place(out, ".json").read_text()) == SETTINGS
