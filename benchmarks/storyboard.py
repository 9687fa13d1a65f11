"""What a model understands of the storyboard world, on arrays and through an index of real mp4 files.

Renders the standard test gallery, indexes the files, asks every caption through the index, and evaluates
the same model on arrays of the same videos. Writes reports/storyboard.json and .md, for another model
than the default reports/storyboard_NAME.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _report
from vidsift.datasets.storyboard.library import video_name, write_library
from vidsift.datasets.storyboard.splits import SPLITS, StorySet, ceiling, load_split
from vidsift.evaluation.metrics import ranks, retrieval_metrics
from vidsift.evaluation.storyboard import (
    encode_texts,
    encode_videos,
    retrieval,
    search_scores,
    two_alternative_frames,
    two_alternative_videos,
)
from vidsift.index import Index
from vidsift.ingest import index_paths
from vidsift.models import DEFAULT_MODEL, RetrievalModel, load_model

CANDIDATES = 100


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def standard_error(hits: np.ndarray[Any, np.dtype[np.bool_]], video_of: np.ndarray[Any, Any]) -> float:
    """Of a recall in percent, over videos: captions of one video are not independent."""
    per_video = np.asarray([hits[video_of == v].mean() for v in np.unique(video_of)])
    return float(100 * per_video.std(ddof=1) / np.sqrt(len(per_video)))


def through_index(story: StorySet, model: RetrievalModel, folder: Path) -> dict[str, Any]:
    """Render, index and ask; ranks beyond the candidates count as the worst rank."""
    library, where = folder / "library", folder / "index"
    began = time.perf_counter()
    write_library(story, library)
    rendered = time.perf_counter()
    report = index_paths(library, where, model)
    indexed = time.perf_counter()
    assert report.clips == len(story.videos)
    assert not report.failed
    index = Index.open(where)
    found, inside, took = [], [], []
    for caption, owner in zip(story.captions, story.video_of.tolist(), strict=True):
        result = index.search(caption.text, model, k=CANDIDATES, candidates=CANDIDATES)
        names = [Path(hit.path).name for hit in result.hits]
        own = video_name(owner)
        found.append(names.index(own) + 1 if own in names else len(story.videos))
        took.append([result.took_ms[stage] for stage in ("encode", "recall", "rerank")])
        video = story.videos[owner]
        if found[-1] == 1 and caption.kind == "scene" and len(video.scenes) > 1:
            start, end = caption.span(video)
            inside.append(start <= result.hits[0].moment.best < end)
    place = np.asarray(found, np.float64)
    encode, recall, rerank = np.median(np.asarray(took), axis=0).tolist()
    return {
        "ranks": place,
        "inside": inside,
        "ms": {"encode": encode, "recall": recall, "rerank": rerank},
        "render_s": rendered - began,
        "index_s": indexed - rendered,
    }


def hard_groups(model: RetrievalModel, story: StorySet) -> float:
    """Percent of hard queries whose video beats its own three twins (chance 25)."""
    clips = encode_videos(model, story.videos)
    text = encode_texts(model, [caption.text for caption in story.captions])
    scores = search_scores(model, text, clips)
    groups = torch.stack([scores[q, q // 4 * 4 : q // 4 * 4 + 4] for q in range(len(scores))])
    own = np.arange(len(scores)) % 4
    return float(100 * np.mean(ranks(groups.numpy(), own) <= 1))


def report_name(model: str) -> str:
    """The report of a bundled model: the default's is `storyboard`."""
    return "storyboard" if model == DEFAULT_MODEL else f"storyboard_{model}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--videos", type=int, default=SPLITS["test"][1])
    parser.add_argument("--keep", type=Path, help="keep the rendered library and the index here")
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    story = load_split("test", arguments.videos)
    say("arrays")
    clips = encode_videos(model, story.videos)
    arrays = retrieval(model, story, clips, CANDIDATES)
    frames, videos = two_alternative_frames(model), two_alternative_videos(model, story, clips)
    hard = load_split("hard", min(arguments.videos, SPLITS["hard"][1]))
    on_hard, groups = retrieval(model, hard, candidates=CANDIDATES), hard_groups(model, hard)
    say("files")
    with folder_for(arguments.keep) as folder:
        index = through_index(story, model, folder)
    metrics = retrieval_metrics(index["ranks"])
    error = standard_error(index["ranks"] <= 1, story.video_of)
    seeds = [SPLITS["test"][0]]

    rows: list[dict[str, Any]] = [
        {"row": f"arrays, {stage}", "seeds": seeds, **arrays[stage]}
        for stage in ("coarse", "exhaustive", "two_stage")
    ]
    kinds = np.asarray([caption.kind for caption in story.captions])
    by_kind = {str(k): float(100 * np.mean(index["ranks"][kinds == k] <= 1)) for k in np.unique(kinds)}
    rows.append(
        {
            "row": "mp4 files through the index",
            "seeds": seeds,
            "r1": metrics.r1,
            "r1_standard_error": round(error, 2),
            "r5": metrics.r5,
            "r10": metrics.r10,
            "mdr": metrics.mdr,
            "queries": metrics.queries,
            "r1_by_kind": by_kind,
            "median_ms": index["ms"],
            "render_s": round(index["render_s"], 1),
            "index_s": round(index["index_s"], 1),
        }
    )
    rows += [
        {"row": f"hard gallery, {stage}", "seeds": [SPLITS["hard"][0]], **on_hard[stage]}
        for stage in ("coarse", "two_stage")
    ]
    rows += [
        {"row": f"two alternatives on {where}: {name}", "seeds": seeds, **row}
        for where, table in (("frames", frames), ("videos", videos))
        for name, row in table.items()
    ]
    moments = 100 * float(np.mean(index["inside"]))
    _report.write(
        report_name(model.name),
        headline={
            "model": f"{model.name} ({model.fingerprint()})",
            "R@1 through the index of mp4 files (percent)": round(metrics.r1, 1),
            "R@1 on arrays of the same videos (percent)": round(arrays["two_stage"]["r1"], 1),
            "symbolic ceiling of R@1 (percent)": round(ceiling(story), 1),
            "best second inside the described scene (percent)": round(moments, 1),
            **{
                f"two alternatives on frames, {n} (percent)": round(r["accuracy"], 1)
                for n, r in frames.items()
            },
        },
        rows=rows,
        packages=("torch", "transformers", "av", "faiss-cpu", "lancedb"),
        text=_text(story, hard, rows, frames, videos, moments, len(index["inside"]), groups),
    )


def _text(
    story: StorySet,
    hard: StorySet,
    rows: list[dict[str, Any]],
    frames: dict[str, dict[str, float]],
    videos: dict[str, dict[str, float]],
    moments: float,
    asked: int,
    groups: float,
) -> str:
    lines = [
        "## Text-to-video retrieval",
        "",
        f"{len(story.videos)} test videos, {len(story.captions)} captions; ceiling R@1 {ceiling(story):.1f}, "
        f"R@5 {ceiling(story, 5):.1f}. {len(hard.videos)} hard videos; ceiling R@1 {ceiling(hard):.1f}. "
        f"Two-stage: the best {CANDIDATES} by coarse vector are reranked by their frames. One model, one "
        "evaluation: the spread is the standard error over videos, beside the index's R@1.",
        "",
        "| row | R@1 | R@5 | R@10 | MdR | R@1 scene / pair / whole |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if "r1" in row:
            error = row.get("r1_standard_error")
            r1 = f"{row['r1']:.1f}" + (f" ± {error}" if error else "")
            kinds = " / ".join(f"{row['r1_by_kind'].get(k, 0):.1f}" for k in ("scene", "pair", "whole"))
            lines.append(
                f"| {row['row']} | {r1} | {row['r5']:.1f} | {row['r10']:.1f} | {row['mdr']:g} | {kinds} |"
            )
    lines += [
        "",
        f"Hard groups (the right one of four twins; chance 25): {groups:.1f}%.",
        f"Moments: of {asked} captions of one scene whose multi-scene video came first, the best second lies "
        f"inside the described scene for {moments:.1f}%.",
        "",
        "## Two alternatives: a caption against the same caption with one word changed",
        "",
        "Percent right (questions asked). Frames: single pictures; videos: 12 frames, by the search score.",
        "",
        "| attribute | frames | videos |",
        "|---|---:|---:|",
    ]
    for name, row in videos.items():
        still = frames.get(name)
        left = f"{still['accuracy']:.1f} ({still['n']:.0f})" if still else "-"
        lines.append(f"| {name} | {left} | {row['accuracy']:.1f} ({row['n']:.0f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
