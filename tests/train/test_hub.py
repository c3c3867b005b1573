"""`hf:NAME`: the real client, with no network: what the cache holds is found, what it lacks is a sentence."""

import pytest

from remask.core.errors import BadCheckpoint
from remask.train.hub import locate


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache as the client lays it out, holding one small repository."""
    from huggingface_hub import constants

    snapshot = tmp_path / "models--someone--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    refs = tmp_path / "models--someone--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_directory_is_itself(tmp_path):
    assert locate(tmp_path) == str(tmp_path)


def test_a_cached_name_is_found_without_a_network(cache):
    assert locate("hf:someone/small") == str(cache)


def test_an_unknown_name_is_a_sentence(cache):
    with pytest.raises(BadCheckpoint, match=r"hf:someone/other cannot be fetched .*local directory"):
        locate("hf:someone/other")
