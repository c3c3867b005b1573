"""Flags read off dataclasses without importing them.

A dataclass is its own config: its fields are flags, the string below a field is the flag's help. Both are read from the
source with `ast`, so that `--help` is quick (the classes live in modules that import torch) and nothing is said twice.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

CITATION = re.compile(r"\(([^()]*?\b(?:19|20)\d\d[^()]*)\)")


class Field(NamedTuple):
    """A field of a dataclass: its name, annotation text, default and help."""

    name: str
    annotation: str
    default: Any
    help: str


class Row(NamedTuple):
    """What a table row says of itself: what it is, what it promises, where it comes from."""

    summary: str
    law: str
    source: str


@cache
def _module(name: str) -> ast.Module:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {name}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _definition(place: str) -> tuple[ast.Module, ast.ClassDef | ast.FunctionDef]:
    module_name, _, attribute = place.partition(":")
    module = _module(module_name)
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return module, node
    raise AttributeError(f"{module_name} defines no {attribute}")


def _lines(place: str) -> Iterator[tuple[Field, ast.expr]]:
    """The fields of the dataclass at "module:Class" that have a default, which is still to be read."""
    _, node = _definition(place)
    for at, line in enumerate(node.body):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
            continue
        after = node.body[at + 1] if at + 1 < len(node.body) else None
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        yield Field(line.target.id, ast.unparse(line.annotation), None, inspect.cleandoc(str(text))), line.value


def fields(place: str) -> list[Field]:
    """The fields of the dataclass at "module:Class" that a flag can set (those with a literal default)."""
    found = []
    for field, value in _lines(place):
        try:
            found.append(field._replace(default=ast.literal_eval(value)))
        except ValueError:  # made by a factory: an object, not a flag
            continue
    return found


def required(place: str) -> list[str]:
    """The fields of the dataclass at "module:Class" that have no default."""
    _, node = _definition(place)
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign) and line.value is None]
    return [line.target.id for line in lines if isinstance(line.target, ast.Name)]


def parts(place: str, annotation: str) -> list[Field]:
    """The fields of a class that hold an object made by `field(default_factory=NAME)`; NAME is their default."""
    found = []
    for field, value in _lines(place):
        made = value.keywords if isinstance(value, ast.Call) and field.annotation == annotation else []
        found += [field._replace(default=ast.unparse(k.value)) for k in made if k.arg == "default_factory"]
    return found


def describe(place: str) -> Row:
    """A row's first docstring line, its law (a `law` attribute or a LAW constant), and the citation in its module."""
    module, node = _definition(place)
    summary = (ast.get_docstring(node) or "").strip().split("\n")[0]
    law = ""
    for line in [*module.body, *node.body]:
        if isinstance(line, ast.FunctionDef) and line.name == "law":  # a promise with a condition: its best case
            law = ast.unparse(line.body[-1]).split("Law.")[1].split()[0].lower()
        named = [t.id for t in line.targets if isinstance(t, ast.Name)] if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.Assign) and named and named[0] in ("law", "LAW"):
            law = ast.unparse(line.value).split(".")[-1].strip("'").lower()  # Law.EXACT, or a plain string
    text = " ".join((ast.get_docstring(module) or "").split())
    cited = CITATION.search(text)
    return Row(summary, law, cited.group(1) if cited else "")


def _number(kind: Callable[[str], Any], word: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' came where {word} was wanted") from None

    return read


READERS: dict[str, Callable[[str], Any]] = {
    "int": _number(int, "a whole number"),
    "float": _number(float, "a number"),
    "str": str,
}


def add(
    parser: argparse.ArgumentParser,
    place: str,
    title: str,
    defaults: dict[str, Any] | None = None,
    prefix: str = "",
    skip: Sequence[str] = (),
) -> list[str]:
    """Give a parser the flags of a dataclass, each with a prefix ("inner_"); returns the names of its fields.

    skip: fields that are given in another way.
    """
    group = parser.add_argument_group(title)
    names = []
    for field in fields(place):
        if field.name in skip:
            continue
        default = (defaults or {}).get(field.name, field.default)
        flag = flag_of(prefix + field.name)
        kind = field.annotation.replace(" | None", "")
        text = field.help.replace("%", "%%")
        if "default" not in text and default not in (None, (), ""):
            text += f" [default: {' '.join(default) if isinstance(default, tuple) else default}]".replace("%", "%%")
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        elif kind.startswith("tuple"):
            group.add_argument(flag, nargs="+", default=default, help=text, metavar=field.name.upper()[0])
        else:
            group.add_argument(flag, type=READERS[kind], default=default, help=text, metavar=kind.upper())
        names.append(field.name)
    return names


def flag_of(name: str) -> str:
    """How a field's name is typed."""
    return "--" + name.replace("_", "-")


def take(values: argparse.Namespace, names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """The values of some fields whose flags have a prefix, lists as tuples."""
    taken = {name: getattr(values, prefix + name) for name in names}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in taken.items()}
