"""The demonstration: a small library is rendered, indexed, searched, and its retrieval quality measured."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidsift.datasets.storyboard.library import CAPTIONS_FILE, video_name, write_library
from vidsift.datasets.storyboard.splits import StorySet, draw_set
from vidsift.evaluation.metrics import RetrievalMetrics, retrieval_metrics
from vidsift.index import Hit, Index
from vidsift.index.config import CONFIG_NAME
from vidsift.ingest import Progress, index_paths
from vidsift.models import load_model

Advance = Callable[[float, float | None, str], None]
Bar = Callable[[str, str], AbstractContextManager[Advance]]

# A library of its own: neither training videos nor the standard validation and test splits.
DEMO_SEED = 500
DEMO_MODEL = "vidsift-tiny"
SHOWN = 4


@dataclass(frozen=True)
class Answer:
    """One held-out caption: the rank of its video (1-based), the best hit, and the moment in the right video.

    scene: the seconds that the caption describes.  inside: whether the moment's best second lies there;
    None when the caption speaks of several scenes, or its video has only one, or it was not the best hit.
    """

    caption: str
    video: str
    scene: tuple[float, float]
    rank: int
    hit: Hit
    inside: bool | None


@dataclass(frozen=True)
class DemoReport:
    """What the demonstration found. `seconds`: wall time by step."""

    library: Path
    index: Path
    videos: int
    retrieval: RetrievalMetrics
    answers: list[Answer]
    seconds: dict[str, float]

    @property
    def moments(self) -> list[bool]:
        """Per caption of one scene whose multi-scene video was found: is the moment inside the scene?"""
        return [answer.inside for answer in self.answers if answer.inside is not None]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, the shape of `demo --json`."""
        return {
            "library": str(self.library),
            "index": str(self.index),
            "videos": self.videos,
            "retrieval": asdict(self.retrieval),
            "moments": {"asked": len(self.moments), "inside": sum(self.moments)},
            "answers": [
                {
                    "caption": answer.caption,
                    "video": answer.video,
                    "scene": list(answer.scene),
                    "rank": answer.rank,
                    "hit": answer.hit.to_dict(),
                    "inside": answer.inside,
                }
                for answer in self.answers
            ],
            "seconds": {step: round(spent, 2) for step, spent in self.seconds.items()},
        }

    def lines(self) -> list[str]:
        """The report for people."""
        lines = []
        for answer in self.answers[:SHOWN]:
            hit = answer.hit
            right = "right" if answer.rank == 1 else f"the right one is at rank {answer.rank}"
            lines += [
                f'"{answer.caption}"',
                f"    {Path(hit.path).name} ({right}), moment {hit.moment.start:.2f}-{hit.moment.end:.2f} s, "
                f"best {hit.moment.best:.2f} s; described: {answer.video} "
                f"{answer.scene[0]:.1f}-{answer.scene[1]:.1f} s",
            ]
        found = self.retrieval
        spent = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
        lines += [
            "",
            f"{found.queries} held-out captions, {self.videos} videos: R@1 {found.r1:.1f}, "
            f"R@5 {found.r5:.1f}, R@10 {found.r10:.1f}, median rank {found.mdr:g}",
        ]
        if self.moments:
            share = 100 * sum(self.moments) / len(self.moments)
            lines.append(
                f"moment inside the described scene: {share:.0f}% of {len(self.moments)} found scenes"
            )
        lines += [
            f"time: {spent}",
            "",
            "Ask it yourself:",
            f'    {_program()} search "a red car moving left on the grass" --index {_short(self.index)}',
            "or in a browser:",
            f"    {_program()} serve --index {_short(self.index)}",
        ]
        return lines


def _program() -> str:
    """How this program can be called from here: it may lie in an environment that is not active."""
    found = shutil.which("vidsift")
    own = Path(sys.argv[0])
    return "vidsift" if found or own.name != "vidsift" else _short(own.absolute())


def _short(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def run_demo(folder: Path, videos: int, queries: int, bar: Bar) -> DemoReport:
    """Render storyboard videos into `folder/library`, index them and ask `queries` held-out captions.

    bar: makes the context manager of a progress display from a title and a unit.
    A library and an index that are there already are used again.
    """
    library, index_folder = folder / "library", folder / "index"
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[step] = now - began
        began = now

    story = draw_set(DEMO_SEED, videos)
    if not _is_rendered(story, library):
        with bar("rendering", "videos") as advance:
            write_library(story, library, lambda done, total: advance(done, total, ""))
    lap("render")
    model = load_model(DEMO_MODEL)
    _forget_another_model(index_folder, model)
    lap("load the model")
    with bar("indexing", "files") as advance:

        def show(p: Progress) -> None:
            if p.stage == "read":
                advance(p.done, p.total, Path(p.path).name)

        index_paths(library, index_folder, model, progress=show)
    lap("index")
    index = Index.open(index_folder)
    answers = []
    # One caption per video, evenly over the library, until enough are asked.
    per_video = len(story.captions) // videos
    order = [v * per_video + c for c in range(per_video) for v in range(videos)]
    for number in order[:: max(1, videos // queries)][:queries]:
        answers.append(_ask(index, model, story, number, videos))
    lap(f"{len(answers)} searches")
    found = retrieval_metrics(np.asarray([answer.rank for answer in answers], np.float64))
    return DemoReport(library, index_folder, videos, found, answers, seconds)


def _forget_another_model(index_folder: Path, model: Any) -> None:
    """Remove the demonstration's index if an earlier version made it with another model."""
    made = (index_folder / CONFIG_NAME).exists()
    if made and Index.open(index_folder).model.fingerprint != model.fingerprint():
        shutil.rmtree(index_folder)


def _is_rendered(story: StorySet, library: Path) -> bool:
    names = {path.name for path in library.glob("*.mp4")}
    return (library / CAPTIONS_FILE).exists() and names == {video_name(n) for n in range(len(story.videos))}


def _ask(index: Index, model: Any, story: StorySet, number: int, videos: int) -> Answer:
    caption, owner = story.captions[number], int(story.video_of[number])
    video = story.videos[owner]
    hits = index.search(caption.text, model, k=videos, candidates=100).hits
    names = [Path(hit.path).name for hit in hits]
    rank = names.index(video_name(owner)) + 1
    start, end = caption.span(video)
    inside = None
    if rank == 1 and caption.kind == "scene" and len(video.scenes) > 1:
        inside = start <= hits[0].moment.best <= end
    return Answer(caption.text, video_name(owner), (start, end), rank, hits[0], inside)
