import pytest

from tests.train import runs


@pytest.fixture
def earlier(tmp_path):
    """A run that was killed after its last but one checkpoint."""
    return runs.earlier(tmp_path / "earlier")
