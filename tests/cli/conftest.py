import pytest

from remask.cli import main
from tests.train.runs import Done


@pytest.fixture
def remask(capsys):
    """The command, in this process."""

    def call(*words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            status = stop.code
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def lines(remask):
    """The command's JSON lines; it must end well."""
    import json

    def call(*words):
        done = remask(*words, "--json")
        assert done.status == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    return call


@pytest.fixture
def line(lines):
    """The command's only JSON line."""

    def call(*words):
        (found,) = lines(*words)
        return found

    return call
