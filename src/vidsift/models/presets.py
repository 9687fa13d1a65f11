"""Recommended published backbones by purpose, with licence, size and cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A backbone on the hub under a short name.

    parameters: both towers, counted.  download_mb: fp32 weights, 4 bytes per parameter.  relative_cost:
    multiply-accumulates per frame against `fast`.  width: D.  image_size: pixels.
    """

    name: str
    hub_id: str
    licence: str
    parameters: int
    download_mb: int
    relative_cost: float
    width: int
    image_size: int
    languages: str


PRESETS: dict[str, Preset] = {}
