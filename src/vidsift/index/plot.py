"""A picture of what tuning measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidsift.index.scan import ScanPoint


def plot_scan(points: Sequence[ScanPoint], target: float, path: Path) -> None:
    """Recall against milliseconds, with the target as a line."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = picture.subplots()
    axes.plot([p.milliseconds for p in points], [p.recall for p in points], "o-", color="tab:blue")
    for point in points:
        place = (point.milliseconds, point.recall)
        axes.annotate(f"{point.picked:,}", place, (4, -10), textcoords="offset points")
    axes.margins(0.12)  # room for the numbers
    axes.axhline(target, color="0.5", linestyle=":", label=f"target {target:g}")
    axes.set_xlabel("ms per query")
    axes.set_ylabel("recall of the exact best 100")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture.savefig(path, dpi=120)
