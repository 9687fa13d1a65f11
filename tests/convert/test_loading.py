"""Weights come out of any checkpoint file; code in it is never run, and the refusal says what it was."""

import datetime
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidsift.convert.core import find_family
from vidsift.convert.loading import read_state
from vidsift.errors import ConversionError

WEIGHTS = {"clip.a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2.5), "c.half": torch.ones(4).half()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected)


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize(
    "held",
    [
        WEIGHTS,
        {"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"state": {}, "param_groups": []}},
        {f"module.{k}": v for k, v in WEIGHTS.items()},
        {"state_dict": {f"module.{k}": v for k, v in WEIGHTS.items()}},
    ],
    ids=["bare", "wrapped", "parallel", "both"],
)
def test_the_state_dict_is_found(held: object, modern: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin.4"
    torch.save(held, path, _use_new_zipfile_serialization=modern)
    assert_same(read_state(path), WEIGHTS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert_same(read_state(tmp_path / "model.safetensors"), WEIGHTS)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ln_1 = nn.MultiheadAttention(8, 2), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_1(self.attn(x, x, x, need_weights=False)[0])


class Tower(nn.Module):
    """As OpenAI's archives are made: nested modules, bare half-precision parameters, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(Block(), Block())
        self.proj = nn.Parameter(torch.randn(8, 8).half())
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_archive_is_read_without_its_code(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Tower().eval()
    path = tmp_path / "ViT-B-32.pt"
    compiled = torch.jit.script(tower) if how == "script" else torch.jit.trace(tower, torch.randn(2, 1, 8))
    compiled.save(str(path))
    broken = tmp_path / "broken.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(broken, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, b"no code" if "/code/" in name else archive.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(broken))
    for file in (path, broken):
        assert_same(read_state(file), dict(tower.state_dict()))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("ignore", [(), (".*",)], ids=["strict", "ignoring"])
@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before-1.6"])
def test_code_in_a_checkpoint_never_runs(modern: bool, ignore: tuple[str, ...], tmp_path: Path) -> None:
    target = tmp_path / "made"
    path = tmp_path / "evil.pth"
    held = {"state_dict": WEIGHTS, "config": Bomb(target)}
    torch.save(held, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(
        ConversionError, match=rf"evil\.pth: holds an object of class '{os.name}\.mkdir'"
    ) as error:
        read_state(path, ignore)
    assert not target.exists()
    assert "weights_only" not in str(error.value)


def test_numbers_of_numpy_beside_the_weights_are_passed_over_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "trained_model.pth"
    torch.save({"state_dict": WEIGHTS, "monitor_best": np.float64(31.25)}, path)
    assert_same(read_state(path, find_family("ce").ignore), WEIGHTS)
    with pytest.raises(ConversionError, match="numpy"):
        read_state(path)


@pytest.fixture
def project_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of the program that wrote the checkpoint, which is not here when it is read."""
    module = types.ModuleType("parse_config")

    class ConfigParser:
        pass

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    module.ConfigParser = ConfigParser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parse_config", module)
    return ConfigParser


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before-1.6"])
def test_an_object_beside_the_weights_is_refused_by_name_or_passed_over(
    project_class: type, modern: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = project_class()
    config.folder, config.when, config.args = tmp_path, datetime.datetime(2020, 1, 2), {"n": [1, (2, 3)]}
    path = tmp_path / "trained_model.pth"
    held = {"arch": "CENet", "state_dict": WEIGHTS, "config": config}
    torch.save(held, path, _use_new_zipfile_serialization=modern)
    monkeypatch.delitem(sys.modules, "parse_config")
    with pytest.raises(ConversionError, match=r"parse_config\.ConfigParser.*state_dict"):
        read_state(path)
    with pytest.raises(ConversionError, match=r"pathlib|datetime"):
        read_state(path, (r"parse_config\..+",))
    assert_same(read_state(path, (r"parse_config\..+", r"pathlib\..+", r"_?datetime\..+")), WEIGHTS)
    assert "parse_config" not in sys.modules


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"epoch": 1, "optimizer_state_dict": {}, "loss": 0.5}, "optimiser"),
        ([1, 2], "list"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is a int"),
        ({}, "no tensors"),
    ],
    ids=["optimiser", "list", "mixed", "empty"],
)
def test_a_file_that_holds_something_else_is_refused_with_the_reason(
    held: object, message: str, tmp_path: Path
) -> None:
    torch.save(held, tmp_path / "x.bin")
    with pytest.raises(ConversionError, match=message):
        read_state(tmp_path / "x.bin")


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none\.bin: no such file"):
        read_state(tmp_path / "none.bin")
    whole = tmp_path / "whole.bin"
    torch.save(WEIGHTS, whole)
    for name, data in {
        "text.bin": b"hello\n",
        "nothing.bin": b"",
        "cut.bin": whole.read_bytes()[:-300],
        "pickle.bin": pickle.dumps([1, {2}], protocol=2),
        "zip.bin": b"PK\x05\x06" + bytes(18),
        "text.safetensors": b"hello",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConversionError, match=name.replace(".", r"\.")) as error:
            read_state(tmp_path / name)
        assert "weights_only" not in str(error.value)
