"""A file is written whole or not at all."""

from __future__ import annotations

import os

import pytest

from remask.core.errors import SaveFailed
from remask.report import write as room
from remask.report.write import write


def test_writes_text_and_makes_folders(tmp_path):
    path = write(tmp_path / "a" / "b.html", "é\n\ud800")
    assert path.read_bytes() == "é\n?".encode()
    assert write(path, iter(["one", "two"])).read_text() == "onetwo"
    assert os.listdir(path.parent) == ["b.html"]


def test_old_file_stays_when_a_part_fails(tmp_path):
    path = write(tmp_path / "r.html", "old")

    def parts():
        yield "new" * 100_000
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write(path, parts())
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["r.html"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_old_file_stays_when_the_disk_refuses(tmp_path, monkeypatch, step):
    path = write(tmp_path / "r.html", "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.os, step, refuse)
    with pytest.raises(SaveFailed, match="No space left"):
        write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["r.html"]


def test_a_folder_that_is_a_file(tmp_path):
    write(tmp_path / "f", "x")
    with pytest.raises(SaveFailed, match="could not write"):
        write(tmp_path / "f" / "r.html", "y")
