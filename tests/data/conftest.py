import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: REMASK_DATA, or shared/data beside the checkout."""
    folder = (ROOT / os.environ.get("REMASK_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set REMASK_DATA")
    return folder
