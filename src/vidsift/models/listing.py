"""The table of models that come with the package or are recommended."""

from __future__ import annotations

import json
from typing import Any

from vidsift.models.loading import BUNDLED, DEFAULT_MODEL, bundled_models
from vidsift.models.presets import PRESETS
from vidsift.models.storage import CONFIG, WEIGHTS


def model_table() -> list[dict[str, Any]]:
    """One row a model, bundled ones first; the cost is relative to the preset `fast`."""
    rows = []
    for name in bundled_models():
        config = json.loads((BUNDLED / name / CONFIG).read_text(encoding="utf-8"))
        rows.append(
            {
                "name": name,
                "default": name == DEFAULT_MODEL,
                "what": "bundled, for the storyboard world",
                "licence": "Apache-2.0",
                "MB": round((BUNDLED / name / WEIGHTS).stat().st_size / 1e6, 1),
                "relative cost": "< 0.01",
                "width": config["backbone"]["projection_dim"],
                "languages": "English",
            }
        )
    rows += [
        {
            "name": preset.name,
            "default": preset.name == DEFAULT_MODEL,
            "what": preset.hub_id,
            "licence": preset.licence,
            "MB": preset.download_mb,
            "relative cost": preset.relative_cost,
            "width": preset.width,
            "languages": preset.languages,
        }
        for preset in PRESETS.values()
    ]
    return rows
