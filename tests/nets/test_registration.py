"""The watcher that registers our model types as soon as transformers' auto classes are loaded, and not before."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from remask import _registration

CODE = "VALUE = 7\n"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A module of ours in the place of transformers' auto module, and a count of registrations."""
    (tmp_path / "remask_watched.py").write_text(CODE)
    (tmp_path / "remask_needed.py").write_text("import remask_watched\nSEEN = remask_watched.VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registration, "AUTO", "remask_watched")
    monkeypatch.setattr(_registration, "NEEDED", ("remask_watched", "remask_needed"))
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, _registration._Watcher)])
    calls = []
    monkeypatch.setattr(_registration, "_register", lambda: calls.append(sys.modules["remask_watched"].VALUE))
    yield calls
    sys.modules.pop("remask_watched", None)
    sys.modules.pop("remask_needed", None)


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
    monkeypatch.setattr(_registration, "NEEDED", ("remask_nowhere",))
    _registration.register_when_imported()
    assert importlib.util.find_spec("remask_nowhere") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("remask_nowhere")


def test_it_waits_for_a_module_that_is_half_loaded(watched, monkeypatch):
    """A model's module may import the auto classes on its way: ours need that module whole."""
    seen = []
    monkeypatch.setattr(_registration, "_register", lambda: seen.append(sys.modules["remask_needed"].SEEN))
    _registration.register_when_imported()
    importlib.import_module("remask_needed")
    assert seen == [7]
    assert watchers() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["BertModel", "ElectraForPreTraining", "ModernBertForMaskedLM", "PreTrainedModel", "Trainer", "AutoModel"]
)
def test_whatever_is_imported_from_transformers_first(name):
    code = (
        f"import remask\nfrom transformers import {name}, AutoModel, CONFIG_MAPPING\n"
        "assert 'remask-modernbert' in CONFIG_MAPPING"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
