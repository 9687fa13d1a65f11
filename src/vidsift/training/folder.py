"""A run's folder: its files, written whole or not at all, and a log that a resumed run continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vidsift.errors import RecipeError
from vidsift.files import write_text

CHECKPOINT, RECIPE, METRICS, MODEL = "checkpoint.pt", "recipe.yaml", "metrics.jsonl", "model"
_CUT_OFF = 2**62


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Six significant digits, for a log."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}


class RunFolder:
    """The folder of one run of one recipe.

    writes: False in all processes but one, which then only read.
    Raises RecipeError when it holds a run of another recipe.
    """

    def __init__(self, path: Path, resolved: dict[str, Any], writes: bool = True) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.mkdir(parents=True, exist_ok=True)
        known = path / RECIPE
        if self.checkpoint.exists():
            if yaml.safe_load(known.read_text(encoding="utf-8")) != resolved:
                raise RecipeError(f"{path}: holds a run of another recipe ({known}); choose another folder")
        else:
            write_text(known, yaml.safe_dump(resolved, sort_keys=False))
            (path / METRICS).write_text("", encoding="utf-8")

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def record(self, **values: Any) -> None:
        """Add a line to the log."""
        if not self.writes:
            return
        with (self.path / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what was logged after a checkpoint, because it is about to happen again."""
        if not self.writes:
            return
        metrics = self.path / METRICS
        kept = [
            line for line in metrics.read_text(encoding="utf-8").splitlines() if _logged_step(line) <= step
        ]
        write_text(metrics, "".join(line + "\n" for line in kept))

    def last(self, key: str) -> Any:
        """The last value that was logged under a key, or None."""
        for line in reversed((self.path / METRICS).read_text(encoding="utf-8").splitlines()):
            if key in (values := json.loads(line)):
                return values[key]
        return None


def _logged_step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return _CUT_OFF  # a line cut off by a kill
