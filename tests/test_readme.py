"""What README and docs tell people to paste works when pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from remask.cli.words import WORDS

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_commands_of_the_readme_are_words():
    commands = re.findall(r"^remask (\w+)", "\n".join(blocks("README.md", "")), re.MULTILINE)
    assert set(commands) >= {"train", "evaluate", "fill", "sample", "score", "report"}
    assert set(commands) <= set(WORDS)


def test_the_makefile_has_the_two_commands():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "test-slow", "check"} <= set(targets)
    assert {line.split()[1] for line in blocks("README.md", "")[0].splitlines() if line} == {"demo", "test"}


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert targets
    assert all((ROOT / target).exists() for target in targets)


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_ten_lines_work_when_pasted_and_so_does_stepping_by_hand(tmp_path):
    (lines,) = blocks("README.md", "python")
    printed = run(lines, tmp_path)
    assert printed.splitlines().count("---") >= 3  # between four texts, and perhaps in one
    assert "Estimate(value=" in printed
    (by_hand,) = blocks("docs/step_by_hand.md", "python")
    told = run(by_hand.replace("runs/demo", "runs/first"), tmp_path).splitlines()
    assert told[0].startswith("2 cells fell; 2 rows asked the network")
    assert told[-1].endswith("[True, True]")


@pytest.mark.slow
def test_the_sampler_of_the_extension_guide_is_exact():
    """The page's sampler, on an enumerable law, at the noise floor of true samples."""
    from tests.conformance import check_law
    from tests.oracle import LAWS

    (code,) = blocks("docs/extend.md", "python")
    names: dict = {}
    exec(
        "from dataclasses import dataclass, field\n"
        "from remask.core.draw import Categorical, Draw\n"
        "from remask.core.refill import refill\n"
        "from remask.core.sampler import Law, masked, start\n" + code,
        names,
    )
    for oracle in LAWS.values():
        check_law(names["LeftToRight"](), oracle)
