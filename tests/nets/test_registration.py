"""The watcher that registers our model types as soon as transformers' auto classes are loaded, and not before."""

import importlib
import importlib.util
import sys

import pytest

from remask import _registration

CODE = "VALUE = 7\n"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A module of ours in the place of transformers' auto module, and a count of registrations."""
    (tmp_path / "remask_watched.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registration, "AUTO", "remask_watched")
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, _registration._Watcher)])
    calls = []
    monkeypatch.setattr(_registration, "_register", lambda: calls.append(sys.modules["remask_watched"].VALUE))
    yield calls
    sys.modules.pop("remask_watched", None)


def watchers():
    return sum(isinstance(finder, _registration._Watcher) for finder in sys.meta_path)


def test_it_waits_for_the_module_and_registers_once_it_is_whole(watched):
    _registration.register_when_imported()
    _registration.register_when_imported()
    assert watchers() == 1
    import_module = importlib.import_module
    import_module("json.tool")
    assert watched == []
    import_module("remask_watched")
    assert watched == [7]
    assert watchers() == 0
    import_module("remask_watched")
    assert watched == [7]


def test_it_registers_at_once_where_the_module_is_there(watched):
    importlib.import_module("remask_watched")
    _registration.register_when_imported()
    assert watched == [7]
    assert watchers() == 0


def test_a_mere_look_at_the_spec_does_not_use_it_up(watched):
    _registration.register_when_imported()
    assert importlib.util.find_spec("remask_watched") is not None
    importlib.import_module("remask_watched")
    assert watched == [7]


def test_a_module_that_is_not_installed_is_not_found(watched, monkeypatch):
    monkeypatch.setattr(_registration, "AUTO", "remask_nowhere")
    _registration.register_when_imported()
    assert importlib.util.find_spec("remask_nowhere") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("remask_nowhere")
