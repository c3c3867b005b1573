"""The house rules that can be read off the source: who may import whom, how long a file may be, rows that load."""

import ast
import sys
from pathlib import Path

import pytest

from remask.metrics import METRICS
from remask.objectives import OBJECTIVES
from remask.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parents[1]
FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "remask").rglob("*.py"))}
FLOORS = [
    ("core",),
    ("nets", "data"),
    ("objectives", "samplers", "decoders", "metrics"),
    ("translate",),
    ("train", "report"),
    ("lab", "bench"),
    ("cli", "serve"),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported(source, path):
    """Every module that a file imports anywhere in it, as absolute dotted names."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "remask")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "remask":
            yield f"remask.{node.attr}"  # a bare `import remask` gives whatever is then taken from it
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ([f"{module}.{alias.name}" for alias in node.names] if module == "remask" else [module])


def trespasses(source, path):
    """Imports of a file that the plan of the house forbids; files beside the rooms (remask/*.py) may import any."""
    parts = path.split("/")
    if len(parts) == 2:
        return []
    room = parts[1]
    assert room in FLOOR, f"{path}: the room '{room}' has no floor"
    found = []
    for module in imported(source, path):
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if top != "remask":
            if room == "core" and top not in {"torch", *sys.stdlib_module_names}:
                found.append(module)
        elif other not in (room, "__version__") and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
            found.append(module)
    return found


def literal_branches(source):
    """Lines inside loops that compare with a string literal."""
    loops = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.For | ast.While)]
    inside = {node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Compare)}
    strings = [
        any(isinstance(x, ast.Constant) and isinstance(x.value, str) for x in (n.left, *n.comparators)) for n in inside
    ]
    return sorted(n.lineno for n, named in zip(inside, strings) if named and isinstance(n.ops[0], ast.Eq | ast.NotEq))


@pytest.mark.parametrize("path", FILES)
def test_imports_run_one_way(path):
    assert trespasses(FILES[path], path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("remask/core/x.py", "import numpy"),
        ("remask/core/x.py", "from remask.nets import encoder"),
        ("remask/samplers/x.py", "from remask.objectives.mdlm import MDLM"),
        ("remask/samplers/x.py", "def f():\n    import remask.train.run"),
        ("remask/samplers/x.py", "from ..metrics import nelbo"),
        ("remask/samplers/x.py", "from remask import train"),
        ("remask/nets/x.py", "import remask.data"),
        ("remask/train/x.py", "import remask\n\nremask.load('x')"),
        ("remask/train/x.py", "from remask.report.page import Page"),
        ("remask/report/x.py", "from remask import load"),
        ("remask/cli/x.py", "import remask.serve"),
    ],
)
def test_a_planted_trespass_is_caught(path, line):
    assert trespasses(line, path)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("remask/core/x.py", "import torch, math\nfrom remask.core.stream import Stream"),
        ("remask/samplers/x.py", "from .first_hitting import FirstHitting\nfrom ..core import stream"),
        ("remask/train/x.py", "import transformers\nfrom remask.metrics import METRICS"),
        ("remask/train/x.py", "import remask\n\nprint(remask.__version__)"),
        ("remask/cli/x.py", "import remask.lab.laws"),
    ],
)
def test_what_is_allowed_is_let_through(path, line):
    assert trespasses(line, path) == []


def test_no_file_is_longer_than_400_lines():
    assert {path: n for path, source in FILES.items() if (n := source.count("\n")) > 400} == {}


@pytest.mark.parametrize("table", [SAMPLERS, OBJECTIVES, METRICS], ids=lambda table: table.kind)
def test_every_row_loads(table):
    assert all(callable(table.load(name)) for name in table)


@pytest.mark.parametrize("path", [p for p in FILES if p.split("/")[1] in ("samplers", "objectives")])
def test_no_loop_compares_names(path):
    assert literal_branches(FILES[path]) == []


def test_a_planted_name_branch_is_caught():
    assert literal_branches("for x in y:\n    if kind == 'margin':\n        pass\n") == [2]
    assert literal_branches("while True:\n    a = 'b' != c\n") == [2]
    assert literal_branches("if kind == 'margin':\n    pass\n") == []
