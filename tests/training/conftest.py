"""Small recipes over the bundled backbone and a small slice of the storyboard world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidsift.training.recipe import Recipe

Make = Callable[..., Recipe]


@pytest.fixture
def make_recipe(tmp_path: Path) -> Make:
    """method, changes -> a recipe of a few steps whose caches lie in the test's folder."""

    def make(method: str = "teachclip", /, **changes: Any) -> Recipe:
        settings = {"layers": 1} if method not in ("meanp", "xpool") else {}
        values: dict[str, Any] = {
            "name": "small",
            "backbone": "clip-tiny",
            "data": {
                "source": "storyboard",
                "train": "train",
                "val": "val",
                "train_videos": 20,
                "val_videos": 6,
            },
            "features": {"folder": str(tmp_path / "features")},
            "method": {"name": method, "frames": 3, "settings": settings},
            "validation": {"every": 3, "candidates": [2, 4]},
            "steps": 6,
            "batch": 8,
            "threads": 1,
            "log_every": 1,
            "checkpoint_every": 2,
        }
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(values.get(key), dict) else value
        return Recipe.model_validate(values)

    return make
