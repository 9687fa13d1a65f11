"""The guides are walked as they stand, on fewer videos and steps: every recipe in them, every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`(?:[\w-]+/)*([\w-]+\.yaml)`")
# What makes a walk short; each has to be met somewhere, or the guide has moved on.
SMALLER = {
    "--videos 400": "--videos 40",
    "--videos 300": "--videos 12",
    "steps: 200": "steps: 6\nbatch: 16\nthreads: 1",
}


def steps_of(guide: str) -> list[tuple[str, str]]:
    """A guide's recipes, by file name, and its commands (name ""), in order."""
    text = (ROOT / "docs" / "guides" / f"{guide}.md").read_text()
    found, end = [], 0
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "yaml":
            names = NAMED.findall(text[end : block.start()])
            found.append((names[0], content))
        elif kind == "":
            found.append(("", content))
        end = block.end()
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("guide", ["text-teachers", "modality-teachers", "clean-captions"])
def test_a_guide_works_as_it_stands(guide: str, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    met = set()
    for name, content in steps_of(guide):
        for long, short in SMALLER.items():
            if long in content:
                met.add(long)
                content = content.replace(long, short)
        if name:
            (tmp_path / name).write_text(content)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", content],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, f"{content}\n{done.stderr[-3000:]}"
    assert met == set(SMALLER)


@pytest.mark.timeout(300)
def test_a_compact_text_tower_searches_the_index_of_the_whole_one(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("vidsift"))
    (name, _), (_, commands) = steps_of("compact-text")
    assert name == "compact-text.yaml"
    train, index, search = commands.strip().splitlines()
    short = "steps=4 batch=8 data.train_videos=20 data.val_videos=6 validation.every=4"
    story = "vidsift storyboard --out story --videos 6 --seed 7"
    for command in (story, f"{train} {short}", index, search):
        words = command.replace("recipes/", f"{ROOT}/recipes/").replace("vidsift ", f"{program} ", 1)
        done = subprocess.run(
            ["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stderr[-3000:]}"
    assert "story-0000" in done.stdout
