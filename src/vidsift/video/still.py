"""A picture file as a model's picture."""

from __future__ import annotations

import os
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vidsift.video.errors import VideoError
from vidsift.video.types import Geometry


def read_image(path: str | os.PathLike[str], geometry: Geometry) -> NDArray[np.uint8]:
    """RGB [3, S, S] of a picture file, upright, cropped or squashed as a model wants it.

    Raises VideoError, naming the file, for one that is no picture.
    """
    return _read(path, path, geometry)


def decode_image(content: bytes, geometry: Geometry) -> NDArray[np.uint8]:
    """The same of a picture file's bytes."""
    return _read(BytesIO(content), "the picture", geometry)


def _read(
    source: str | os.PathLike[str] | BytesIO, name: str | os.PathLike[str], geometry: Geometry
) -> NDArray[np.uint8]:
    try:
        with Image.open(source) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    # PIL's readers raise whatever a damaged file does to them.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(name, f"cannot be read as a picture: {error}") from error
    side = (geometry.size, geometry.size)
    if geometry.mode == "squash":
        sized = picture.resize(side, Image.Resampling.BICUBIC)
    else:
        sized = ImageOps.fit(picture, side, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(sized).transpose(2, 0, 1))
