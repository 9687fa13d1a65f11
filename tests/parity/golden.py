"""Golden numbers of the official code, read from `golden/*.npz`, and how closely ours must meet them."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
ASKED: dict[str, set[str]] = {}
"""Keys that were read, by file."""


class Golden:
    """One file of arrays: `g["out/sim"]` a tensor, `g.weights("w/")` a state dict, `g.meta` settings."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file}
        self.meta = json.loads(str(arrays.pop("meta/json", "{}")))
        self.asked = ASKED.setdefault(name, set())
        self.tensors = {key: torch.from_numpy(a) for key, a in arrays.items() if a.dtype.kind in "fiub"}

    def __getitem__(self, key: str) -> Tensor:
        self.asked.add(key)
        return self.tensors[key].clone()

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def mask(self, key: str) -> Tensor:
        return self[key].bool()

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Everything under a prefix, as a state dict under the official keys, in float32."""
        cut = len(prefix)
        return {k[cut:]: self[k].float() for k in self.tensors if k.startswith(prefix)}

    def keys(self, prefix: str) -> list[str]:
        """The keys under a prefix, without it."""
        return [k[len(prefix) :] for k in self.tensors if k.startswith(prefix)]


def assert_close(value: Tensor, stored: Tensor, relative: float = 1e-5, name: str = "") -> None:
    """Same shape, and nowhere further apart than 1e-7 + relative x the largest stored magnitude."""
    value = value.detach()
    assert value.shape == stored.shape, f"{name}: {tuple(value.shape)} is not {tuple(stored.shape)}"
    apart = float((value.double() - stored.double()).abs().max())
    allowed = 1e-7 + relative * float(stored.double().abs().max())
    assert apart <= allowed, f"{name}: {apart:.2e} apart, {allowed:.2e} allowed"


def assert_gradient(gradient: Tensor, stored: Tensor, relative: float = 1e-4, name: str = "") -> None:
    """As `assert_close`, at the tolerance of gradients."""
    assert_close(gradient, stored, relative, name)


def assert_gradient_stats(gradient: Tensor, stored: Tensor, name: str = "", zero: bool = False) -> None:
    """A parameter's gradient against a stored pair [L2 norm, sum].

    The sum may differ by what its terms may: 1e-4 of their norm, times the root of their number.
    zero: the gradient is zero in exact arithmetic; both are rounding noise below 1e-5.
    """
    gradient = gradient.detach().double()
    norm, total = (float(x) for x in stored.double())
    if zero:
        assert max(abs(norm), abs(total), float(gradient.norm())) <= 1e-5, name
        return
    assert abs(float(gradient.norm()) - norm) <= 1e-7 + 1e-4 * norm, f"{name}: norm"
    slack = 1e-7 + 1e-4 * max(abs(total), norm * gradient.numel() ** 0.5 * 0.1)
    assert abs(float(gradient.sum()) - total) <= slack, f"{name}: sum"
