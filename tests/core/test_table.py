"""Tables: lazy, helpful about names, and open to third parties."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from remask.core.errors import UnknownName
from remask.core.table import Table
from remask.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parents[2]


def python(code, *paths):
    """Run code in a fresh interpreter; what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, paths)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("room", ["samplers", "objectives", "metrics"])
def test_listing_imports_neither_rows_nor_torch(room):
    code = f"""
import sys
from remask import {room}
table = {room}.{room.upper()}
names = list(table)
assert names and all(name in table for name in names)
loaded = [table[name].partition(":")[0] for name in names]
print([m for m in ["torch", "transformers", "numpy", *loaded] if m in sys.modules])
"""
    assert python(code) == "[]"


def test_loading_imports_the_row():
    """And torch with it, so that a room which imports its rows eagerly would fail the test above."""
    code = """
import sys
from remask.samplers import SAMPLERS
SAMPLERS.load("ancestral")
print([m in sys.modules for m in ("remask.samplers.ancestral", "remask.samplers.first_hitting", "torch")])
"""
    assert python(code) == "[True, False, True]"


def test_an_unknown_name_lists_the_known_and_suggests_a_close_one():
    with pytest.raises(UnknownName, match=r"named 'ancestrl'; did you mean 'ancestral'\? Known: .*first_hitting"):
        SAMPLERS["ancestrl"]
    with pytest.raises(UnknownName, match=r"no sampler named 'zzz'\. Known: ancestral"):
        SAMPLERS.load("zzz")
    assert "zzz" not in SAMPLERS


def test_rows_load():
    table = Table("thing", {"path": "pathlib:Path"})
    assert table.load("path") is Path
    assert dict(table) == {"path": "pathlib:Path"}
    assert len(table) == 1


def test_third_parties_add_rows_and_replace_none(tmp_path):
    """A real distribution with entry points, on the path."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    rows = [
        "samplers.mine = mine_module:Mine",
        "samplers.ancestral = mine_module:Mine",
        "objectives.other = mine_module:Mine",
    ]
    (info / "entry_points.txt").write_text("\n".join(["[remask]", *rows]) + "\n")
    (tmp_path / "mine_module.py").write_text("class Mine:\n    pass\n")
    code = """
from remask.samplers import SAMPLERS
from remask.objectives import OBJECTIVES
print(SAMPLERS.load("mine").__name__, SAMPLERS["ancestral"], "other" in SAMPLERS, "other" in OBJECTIVES)
"""
    assert python(code, tmp_path) == "Mine remask.samplers.ancestral:Ancestral False True"


def test_get_of_a_mapping_gives_the_default():
    table = Table("sampler", {"known": "somewhere:It"})
    assert table.get("unknown") is None
    assert table.get("known") == "somewhere:It"
