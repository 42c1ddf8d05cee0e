"""What every test may use: the repository, and real data and weights where there are any."""

import os
from pathlib import Path

import pytest

# Before any library is imported: nothing asks the network for news or sends it a report.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder that holds the real data sets (coco256, facemask848, …), or skip."""
    return _folder("DETTOOLKIT_TEST_DATA", "data", "the real data sets (coco256, facemask848, …)")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Return the folder that holds the pretrained weights, or skip."""
    return _folder("DETTOOLKIT_TEST_WEIGHTS", "weights", "the pretrained weights")


def _folder(variable: str, name: str, content: str) -> Path:
    named = os.environ.get(variable)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to the one that holds {content}")
    return folder.resolve()
