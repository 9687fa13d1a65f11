"""Tensors out of checkpoint files, weights only: no code in a file is ever imported or run."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidsift.errors import ConversionError

# How torch names a class that a file refers to: one that is not allowed, and one of a module that never is.
_REFUSED = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"Trying to load unsupported GLOBAL (\S+) whose module \S+ is blocked"),
)
# What a TorchScript archive's own data refers to: its classes, and markers of list types.
_SCRIPT_NAMES = (r"__torch__\..+", r"torch\.jit\._pickle\..+")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Placeholder:
    """Stands where a file names a class: takes what the file gives that class, and does nothing with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = state if isinstance(state, dict) else {}


def read_state(path: Path, ignore: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a checkpoint: unwrapped from `state_dict`, without DataParallel's `module.`.

    path: a file of torch.save (zip or older), a TorchScript archive, or safetensors.
    ignore: regular expressions of class names, such as `parse_config\\..+`, whose objects beside the weights
        are passed over as inert placeholders. Any other class in the file is a reason to refuse it.
    Raises ConversionError naming the file when it is no checkpoint, or holds more than weights.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            held: dict[str, Tensor] = load_file(path)
            return held
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"{path}: {error}") from error
    script = _without_code(path)
    if script is not None:
        held = dict(_attributes(_load(path, script, _SCRIPT_NAMES)))
    else:
        held = _unwrapped(path, _load(path, path, ignore))
    if not held:
        raise ConversionError(f"{path}: holds no tensors by name")
    return {key.removeprefix("module."): value for key, value in held.items()}


def _load(path: Path, source: Path | io.BytesIO, ignore: Sequence[str]) -> Any:
    """torch.load(weights_only=True), again with a placeholder for each class that may be ignored."""
    allowed: dict[str, type] = {}
    while True:
        if isinstance(source, io.BytesIO):
            source.seek(0)
        try:
            with torch.serialization.safe_globals([(Placeholder, name) for name in allowed]):
                return torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = [match for pattern in _REFUSED if (match := pattern.search(str(error)))]
            if not found:
                raise ConversionError(f"{path}: not readable as weights only ({_reason(error)})") from error
            name = found[0].group(1)
            if name in allowed or not any(re.fullmatch(pattern, name) for pattern in ignore):
                raise ConversionError(
                    f"{path}: holds an object of class {name!r} beside its weights. Loading that would run "
                    "code of the file's author, which vidsift never does. Save the bare weights with the "
                    'program that made the file: torch.save(checkpoint["state_dict"], "weights.pt")'
                ) from error
            allowed[name] = Placeholder
        except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise ConversionError(f"{path}: not a checkpoint of torch ({error})") from error


def _reason(error: Exception) -> str:
    """What torch says is wrong, without its advice to load the file as code."""
    said = str(error).split("\n")[0]
    return re.sub(r"^Weights only load failed[^.]*\.\s*|.*`weights_only`.*", "", said).strip() or "damaged"


def _without_code(path: Path) -> io.BytesIO | None:
    """A TorchScript archive as a plain one: its data without its code.  None for any other file.

    Such an archive is a zip of `data.pkl`, one record per tensor, and code. torch would compile the code
    with the data; without it, and without the constants of the code, the data is an ordinary checkpoint.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/constants.pkl") for name in names):
                return None
            kept = io.BytesIO()
            with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as plain:
                for name in names:
                    folder, _, rest = name.partition("/")
                    if rest in ("data.pkl", "version", "byteorder") or rest.startswith("data/"):
                        plain.writestr(f"{folder}/{rest}", archive.read(name))
            return kept
    except (zipfile.BadZipFile, OSError) as error:
        raise ConversionError(f"{path}: a damaged archive ({error})") from error


def _attributes(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a scripted module, by the dotted path of its attributes."""
    if isinstance(module, Placeholder):
        for name, value in module.fields.items():
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
            else:
                yield from _attributes(value, f"{prefix}{name}.")


def _unwrapped(path: Path, held: Any) -> dict[str, Tensor]:
    for name in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    if isinstance(held, Mapping) and "optimizer_state_dict" in held:
        raise ConversionError(
            f"{path}: the optimiser's state; the weights are in pytorch_model.bin.<epoch> beside it"
        )
    if not isinstance(held, Mapping):
        raise ConversionError(f"{path}: holds a {type(held).__name__}, not a state dict")
    for key, value in held.items():
        if not isinstance(value, Tensor):
            raise ConversionError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor")
    return dict(held)
