"""The demonstration's folder outlives versions of the package: another model's index in it is made anew."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vidsift.demo import _forget_another_model
from vidsift.index import Index
from vidsift.index.config import ModelSpec


@pytest.mark.parametrize(("fingerprint", "kept"), [("a" * 16, True), ("b" * 16, False)])
def test_an_index_of_another_model_is_forgotten(fingerprint: str, kept: bool, tmp_path: Path) -> None:
    Index.create(tmp_path / "index", ModelSpec("m", "a" * 16, 8, 4))
    _forget_another_model(tmp_path / "index", SimpleNamespace(fingerprint=lambda: fingerprint))
    assert (tmp_path / "index").exists() == kept


def test_a_folder_without_an_index_is_left_alone(tmp_path: Path) -> None:
    model = SimpleNamespace(fingerprint=lambda: "a" * 16)
    _forget_another_model(tmp_path / "index", model)
    (tmp_path / "index").mkdir()
    _forget_another_model(tmp_path / "index", model)
    assert (tmp_path / "index").exists()
