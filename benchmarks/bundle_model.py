"""Put a trained run into the package as a bundled model, and write its card from what was measured.

python benchmarks/bundle_model.py runs/clip-tiny              # weights, configuration, tokenizer
python benchmarks/storyboard.py                               # measures the bundled model
python benchmarks/bundle_model.py runs/clip-tiny --card COMMIT   # README.md from run and report
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

import _report
from vidsift.models import load_model
from vidsift.models.loading import BUNDLED
from vidsift.training.folder import METRICS, MODEL, RECIPE

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def bundle(run: Path, target: Path) -> None:
    """Save the run's model into the package."""
    load_model(str(run / MODEL)).save_pretrained(target)
    size = sum((target / name).stat().st_size for name in FILES) / 1e6
    sys.stderr.write(f"{target}: {size:.1f} MB\n")


def card(run: Path, target: Path, commit: str) -> str:
    """The model's card, from the run's recipe and log and the report of `storyboard.py`."""
    recipe = yaml.safe_load((run / RECIPE).read_text())
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    last = [row for row in rows if "loss" in row][-1]
    report: dict[str, Any] = json.loads((_report.REPORTS / "storyboard.json").read_text())
    model = load_model(str(target))
    if model.fingerprint() not in report["headline"]["model"]:
        raise SystemExit("the report was made of another model: run benchmarks/storyboard.py first")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    stages = ", ".join(f"{s['name']} {s['steps']} x {s['batch']} {s['data']}" for s in recipe["stages"])
    shown = sum(s["steps"] * s["batch"] * (12 if s["data"] == "videos" else 1) for s in recipe["stages"])
    lines = [
        f"# {target.name}",
        "",
        f"A small CLIP ({parameters / 1e6:.2f} M parameters, stock `CLIPModel` classes, 64 x 64 "
        f"pixels, patches of {recipe['model']['vision']['patch_size']}, {model.width} dimensions) "
        "trained from nothing on vidsift's storyboard world, for demonstrations and tests without any "
        "download. It knows coloured shapes, their sizes, backgrounds and roughly "
        "their motions; it knows nothing of real videos.",
        "",
        "| | |",
        "|---|---|",
        "| licence | Apache-2.0 |",
        f"| data | the storyboard world, an endless stream from seed {recipe['seed']}; {shown:,} pictures |",
        f"| command | `vidsift train recipes/storyboard/{recipe['name']}.yaml` |",
        f"| commit | `{commit}` |",
        f"| stages | {stages} |",
        f"| seeds | {recipe['seed']} (one run) |",
        f"| time | {last['seconds'] / 60:.0f} minutes of training steps on {recipe['threads']} threads, two "
        "cores shared with other programs |",
        f"| fingerprint | `{model.fingerprint()}` |",
        "",
        f"Measured by `{report['command']}` at `{report['commit']}` on test splits, never used in training:",
        "",
        *(f"- {name}: {value}" for name, value in report["headline"].items() if name != "model"),
        "",
        "| two alternatives | percent right | questions |",
        "|---|---:|---:|",
        *(
            f"| {row['row'].removeprefix('two alternatives ')} | {row['accuracy']:.1f} | {row['n']:.0f} |"
            for row in report["rows"]
            if "accuracy" in row
        ),
        "",
        "Its frames are encoded one by one, so the direction of a motion and the order of scenes are beyond "
        "it: these rows are reported, not claimed.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--card", metavar="COMMIT", help="write the card; the commit that was trained at")
    arguments = parser.parse_args()
    target = BUNDLED / arguments.run.name
    if arguments.card:
        (target / "README.md").write_text(card(arguments.run, target, arguments.card))
    else:
        bundle(arguments.run, target)


if __name__ == "__main__":
    main()
