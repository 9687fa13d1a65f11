"""What a backbone expects of its pictures: size, crop and normalisation, read from a model folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vidsift.errors import ModelFormatError
from vidsift.video.types import Geometry

Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
HALF: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class PreprocessSpec:
    """Pictures for a backbone: size x size RGB, then (pixel / 255 - mean) / std.

    size: side in pixels.  mode: `crop` (shorter side to size, then the centre) or `squash` (both sides to
    size).  mean, std: per channel, on the 0..1 scale.
    """

    size: int
    mode: Literal["crop", "squash"] = "crop"
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    @property
    def geometry(self) -> Geometry:
        """The same size and mode as the video reader takes them.

        Raises ModelFormatError for a model without a picture tower.
        """
        if not self.size:
            raise ModelFormatError(
                "this model has no picture tower: its clips are seen by experts, which train, teach and are "
                "evaluated; index and search with a method that sees pictures (it may be the student)"
            )
        return Geometry(size=self.size, mode=self.mode)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreprocessSpec:
        """Rebuild from `to_dict`'s values."""
        return cls(
            size=int(values["size"]),
            mode=values["mode"],
            mean=_triple(values["mean"]),
            std=_triple(values["std"]),
        )


def read_preprocess(folder: Path, default: PreprocessSpec) -> PreprocessSpec:
    """Read a Hugging Face folder's `preprocessor_config.json` or `processor_config.json`.

    default: used whole when the folder has neither file, and for values that the file leaves out.
    Raises ModelFormatError when the file asks for pictures of another size than the model's, or not square.

    A resize to a larger side than the crop is taken as a resize to the crop size: the reader scales once.
    """
    found = _processor_values(folder)
    if found is None:
        return default
    path, values = found
    size = values.get("size", default.size)
    side, squash = (size, False) if isinstance(size, int) else _side(size, default.size)
    if values.get("do_center_crop") and not squash:
        crop = values.get("crop_size", side)
        side = crop if isinstance(crop, int) else _side(crop, default.size)[0]
    if side != default.size:
        raise ModelFormatError(
            f"{path}: pictures of {side} pixels, but the model takes {default.size}; "
            "the file belongs to another model"
        )
    return PreprocessSpec(
        size=side,
        mode="squash" if squash or not values.get("do_center_crop", default.mode == "crop") else "crop",
        mean=_triple(values.get("image_mean", default.mean)),
        std=_triple(values.get("image_std", default.std)),
    )


def _processor_values(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            values = values.get("image_processor", values)
            if "image_mean" in values or "size" in values:
                return path, values
    return None


def _side(size: dict[str, int], default: int) -> tuple[int, bool]:
    """Return (side, whether both sides are forced) of a `size` or `crop_size` dictionary."""
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), False
    height, width = int(size.get("height", default)), int(size.get("width", default))
    if height != width:
        raise ModelFormatError(f"pictures of {height} x {width} pixels: only square pictures are supported")
    return height, True


def _triple(values: Any) -> Triple:
    first, second, third = (float(v) for v in values)
    return first, second, third
