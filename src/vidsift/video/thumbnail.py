"""Small JPEG pictures for result lists."""

from __future__ import annotations

import io

from PIL import Image

from vidsift.video.types import UInt8Array


def jpeg(pixels: UInt8Array, quality: int = 80) -> bytes:
    """Encode uint8 [H, W, 3] RGB as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
