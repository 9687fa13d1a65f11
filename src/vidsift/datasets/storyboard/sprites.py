"""Shapes: each kind is drawn once as a body and a dark detail mask, then rotated, scaled and cached."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

MASTER = 160
DETAIL_SHADE = 0.3
ANGLE_STEP = 30


def _polygon(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * MASTER, y * MASTER) for x, y in points]


def _radial(n: int, outer: float, inner: float) -> list[tuple[float, float]]:
    points = []
    for k in range(2 * n):
        radius = outer if k % 2 == 0 else inner
        angle = math.pi * k / n - math.pi / 2
        points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return points


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    return (x0 * MASTER, y0 * MASTER, x1 * MASTER, y1 * MASTER)


def _draw(kind: str, body: ImageDraw.ImageDraw, detail: ImageDraw.ImageDraw) -> None:
    """Draw one kind on the unit square; `detail` is painted in a darker shade of the body's colour."""
    if kind == "circle":
        body.ellipse(_box(0.06, 0.06, 0.94, 0.94), fill=255)
    elif kind == "square":
        body.rectangle(_box(0.1, 0.1, 0.9, 0.9), fill=255)
    elif kind == "triangle":
        body.polygon(_polygon([(0.5, 0.05), (0.97, 0.92), (0.03, 0.92)]), fill=255)
    elif kind == "star":
        body.polygon(_polygon(_radial(5, 0.52, 0.2)), fill=255)
    elif kind == "heart":
        body.ellipse(_box(0.03, 0.08, 0.53, 0.56), fill=255)
        body.ellipse(_box(0.47, 0.08, 0.97, 0.56), fill=255)
        body.polygon(_polygon([(0.06, 0.42), (0.94, 0.42), (0.5, 0.97)]), fill=255)
    elif kind == "diamond":
        body.polygon(_polygon([(0.5, 0.01), (0.86, 0.5), (0.5, 0.99), (0.14, 0.5)]), fill=255)
    elif kind == "cross":
        body.rectangle(_box(0.35, 0.04, 0.65, 0.96), fill=255)
        body.rectangle(_box(0.04, 0.35, 0.96, 0.65), fill=255)
    elif kind == "ring":
        body.ellipse(_box(0.04, 0.04, 0.96, 0.96), fill=255)
        body.ellipse(_box(0.3, 0.3, 0.7, 0.7), fill=0)
    elif kind == "moon":
        body.ellipse(_box(0.06, 0.03, 1.0, 0.97), fill=255)
        body.ellipse(_box(0.36, -0.05, 1.24, 0.83), fill=0)
    elif kind == "arrow":
        body.rectangle(_box(0.02, 0.38, 0.56, 0.62), fill=255)
        body.polygon(_polygon([(0.52, 0.12), (0.99, 0.5), (0.52, 0.88)]), fill=255)
    elif kind == "tree":
        body.polygon(_polygon([(0.5, 0.02), (0.78, 0.38), (0.22, 0.38)]), fill=255)
        body.polygon(_polygon([(0.5, 0.22), (0.9, 0.76), (0.1, 0.76)]), fill=255)
        detail.rectangle(_box(0.4, 0.76, 0.6, 0.99), fill=255)
    elif kind == "house":
        body.polygon(_polygon([(0.5, 0.03), (0.98, 0.48), (0.02, 0.48)]), fill=255)
        body.rectangle(_box(0.14, 0.46, 0.86, 0.97), fill=255)
        detail.rectangle(_box(0.4, 0.62, 0.6, 0.97), fill=255)
    elif kind == "car":
        body.rectangle(_box(0.02, 0.44, 0.98, 0.72), fill=255)
        body.polygon(_polygon([(0.2, 0.46), (0.32, 0.22), (0.7, 0.22), (0.84, 0.46)]), fill=255)
        detail.ellipse(_box(0.12, 0.6, 0.36, 0.86), fill=255)
        detail.ellipse(_box(0.64, 0.6, 0.88, 0.86), fill=255)
    elif kind == "boat":
        body.polygon(_polygon([(0.02, 0.66), (0.98, 0.66), (0.8, 0.95), (0.2, 0.95)]), fill=255)
        body.polygon(_polygon([(0.54, 0.04), (0.9, 0.58), (0.54, 0.58)]), fill=255)
        detail.rectangle(_box(0.46, 0.04, 0.53, 0.66), fill=255)
    elif kind == "fish":
        body.ellipse(_box(0.02, 0.24, 0.72, 0.78), fill=255)
        body.polygon(_polygon([(0.6, 0.5), (0.98, 0.2), (0.98, 0.82)]), fill=255)
        detail.ellipse(_box(0.14, 0.38, 0.26, 0.5), fill=255)
    elif kind == "flower":
        for k in range(5):
            angle = 2 * math.pi * k / 5 - math.pi / 2
            x, y = 0.5 + 0.29 * math.cos(angle), 0.5 + 0.29 * math.sin(angle)
            body.ellipse(_box(x - 0.21, y - 0.21, x + 0.21, y + 0.21), fill=255)
        detail.ellipse(_box(0.35, 0.35, 0.65, 0.65), fill=255)
    elif kind == "cloud":
        body.ellipse(_box(0.02, 0.42, 0.42, 0.8), fill=255)
        body.ellipse(_box(0.22, 0.18, 0.68, 0.68), fill=255)
        body.ellipse(_box(0.54, 0.38, 0.98, 0.8), fill=255)
        body.rectangle(_box(0.22, 0.54, 0.78, 0.8), fill=255)
    elif kind == "mushroom":
        body.pieslice(_box(0.03, 0.06, 0.97, 1.0), 180, 360, fill=255)
        detail.rectangle(_box(0.36, 0.53, 0.64, 0.97), fill=255)
    elif kind == "key":
        body.ellipse(_box(0.0, 0.28, 0.44, 0.72), fill=255)
        body.ellipse(_box(0.13, 0.41, 0.31, 0.59), fill=0)
        body.rectangle(_box(0.42, 0.44, 1.0, 0.56), fill=255)
        body.rectangle(_box(0.72, 0.5, 0.8, 0.74), fill=255)
        body.rectangle(_box(0.9, 0.5, 1.0, 0.78), fill=255)
    elif kind == "cup":
        body.ellipse(_box(0.56, 0.28, 0.98, 0.72), fill=255)
        body.ellipse(_box(0.68, 0.4, 0.86, 0.6), fill=0)
        body.rectangle(_box(0.08, 0.14, 0.72, 0.9), fill=255)
        detail.rectangle(_box(0.08, 0.14, 0.72, 0.26), fill=255)
    else:
        raise ValueError(f"unknown kind {kind!r}")


@lru_cache(maxsize=32)
def _master(kind: str) -> tuple[Image.Image, Image.Image]:
    body, detail = Image.new("L", (MASTER, MASTER)), Image.new("L", (MASTER, MASTER))
    _draw(kind, ImageDraw.Draw(body), ImageDraw.Draw(detail))
    return body, detail


@lru_cache(maxsize=32_768)
def sprite(kind: str, size: int, angle: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The masks of one kind at a size in pixels and an angle in degrees.

    Returns (alpha [S,S], shade [S,S]) in 0..1: how much of the pixel is sprite, and by what to multiply its
    colour. S leaves room for the rotated corners.
    """
    body, detail = _master(kind)
    angle = round(angle / ANGLE_STEP) * ANGLE_STEP % 360
    side = max(2, size)
    if angle:
        body = body.rotate(-angle, Image.Resampling.BILINEAR, expand=True)
        detail = detail.rotate(-angle, Image.Resampling.BILINEAR, expand=True)
        side = max(2, round(size * body.width / MASTER))
    body_mask = np.asarray(body.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    detail_mask = np.asarray(detail.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    alpha = np.maximum(body_mask, detail_mask)
    share = np.minimum(detail_mask / np.maximum(alpha, 1e-6), 1)
    shade = (1 - (1 - DETAIL_SHADE) * share).astype(np.float32)
    alpha.setflags(write=False)
    shade.setflags(write=False)
    return alpha, shade
