"""Storyboard videos as files, to be laid out as any data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidsift.datasets.dataset import Example
from vidsift.datasets.example import render_examples


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Example]]:
    """Four training, two validation and three test videos."""
    return render_examples(tmp_path_factory.mktemp("examples"), (4, 2, 3))


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "annotations"


@pytest.fixture
def shared() -> Path:
    """Real split files; the test is skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the real split files are not here")
    return SHARED
