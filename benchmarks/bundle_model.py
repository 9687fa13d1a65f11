"""Put a trained run into the package as a bundled model, and write its card from what was measured.

python benchmarks/bundle_model.py runs/clip-tiny                # weights, configuration, tokenizer
python benchmarks/storyboard.py --model clip-tiny               # measures the bundled model
python benchmarks/bundle_model.py runs/clip-tiny --card COMMIT  # README.md from run and report

`--name` when the run's folder has another name than the model is to have; `--half` stores fp16 weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import _report
from storyboard import report_name
from vidsift.models import load_model
from vidsift.models.loading import BUNDLED
from vidsift.training.folder import METRICS, MODEL, RECIPE

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def bundle(run: Path, target: Path, half: bool) -> None:
    """Save the run's model into the package."""
    dtype = torch.float16 if half else torch.float32
    load_model(str(run / MODEL)).save_pretrained(target, dtype)
    size = sum((target / name).stat().st_size for name in FILES) / 1e6
    sys.stderr.write(f"{target}: {size:.1f} MB\n")


def card(run: Path, target: Path, commit: str) -> str:
    """The model's card, from the run's recipe and log and the report of `storyboard.py`."""
    recipe = yaml.safe_load((run / RECIPE).read_text())
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    seconds = [row for row in rows if "loss" in row][-1]["seconds"]
    report: dict[str, Any] = json.loads((_report.REPORTS / f"{report_name(target.name)}.json").read_text())
    model = load_model(str(target))
    if model.fingerprint() not in report["headline"]["model"]:
        raise SystemExit("the report was made of another model: run benchmarks/storyboard.py first")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    what, facts, closing = (_dual_encoder if "stages" in recipe else _student)(recipe, model.width, millions)
    lines = [
        f"# {target.name}",
        "",
        what,
        "",
        "| | |",
        "|---|---|",
        "| licence | Apache-2.0 |",
        *(f"| {name} | {fact} |" for name, fact in facts.items()),
        f"| commit | `{commit}` |",
        f"| seeds | {recipe['seed']} (one run) |",
        f"| time | {seconds / 60:.0f} minutes of training steps on {recipe['threads']} threads, two "
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
        closing,
        "",
    ]
    return "\n".join(lines)


def _dual_encoder(recipe: dict[str, Any], width: int, millions: float) -> tuple[str, dict[str, str], str]:
    """What it is, its facts, what it cannot do: for a model trained from nothing."""
    stages = ", ".join(f"{s['name']} {s['steps']} x {s['batch']} {s['data']}" for s in recipe["stages"])
    shown = sum(s["steps"] * s["batch"] * (12 if s["data"] == "videos" else 1) for s in recipe["stages"])
    what = (
        f"A small CLIP ({millions:.2f} M parameters, stock `CLIPModel` classes, 64 x 64 pixels, patches of "
        f"{recipe['model']['vision']['patch_size']}, {width} dimensions) trained from nothing on vidsift's "
        "storyboard world, for demonstrations and tests without any download. It knows coloured shapes, "
        "their sizes, backgrounds and roughly their motions; it knows nothing of real videos."
    )
    facts = {
        "data": f"the storyboard world, an endless stream from seed {recipe['seed']}; {shown:,} pictures",
        "command": f"`vidsift train recipes/storyboard/{recipe['name']}.yaml`",
        "stages": stages,
    }
    return (
        what,
        facts,
        (
            "Its frames are encoded one by one, so the direction of a motion and the order of scenes are "
            "beyond it: these rows are reported, not claimed."
        ),
    )


def _student(recipe: dict[str, Any], width: int, millions: float) -> tuple[str, dict[str, str], str]:
    """The same for a method that was trained over a bundled backbone."""
    models = recipe["teachers"]["models"] if recipe["teachers"] else []
    teachers = ", ".join(Path(name).parent.name for name in models)
    what = (
        f"vidsift's united student ({millions:.2f} M parameters, {width} dimensions) over the frozen vision "
        f"tower of `{recipe['backbone']}`, trained on the storyboard world, for demonstrations and tests "
        "without any download: a learned weighting of frames makes the vector that recalls, the text's own "
        "weighting of frames and its words rank the short list. It knows nothing of real videos."
    )
    facts = {
        "data": "the storyboard world's training split, 4,000 videos with 20,000 captions",
        "command": "`python benchmarks/teaching.py`, its row `vidsift`",
        "teachers": teachers or "none",
        "steps": f"{recipe['steps']} x {recipe['batch']} pairs",
    }
    return (
        what,
        facts,
        (
            "Clips of a single picture are not what it was trained for: the rows on frames are reported, "
            "not claimed."
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--card", metavar="COMMIT", help="write the card; the commit that was trained at")
    parser.add_argument("--name", help="of the bundled model; the run folder's unless given")
    parser.add_argument("--half", action="store_true", help="store fp16 weights")
    arguments = parser.parse_args()
    target = BUNDLED / (arguments.name or arguments.run.name)
    if arguments.card:
        (target / "README.md").write_text(card(arguments.run, target, arguments.card))
    else:
        bundle(arguments.run, target, arguments.half)


if __name__ == "__main__":
    main()
