"""What denoising leaves behind: weights, the cleaned annotation, figures, pictures and examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vidsift.datasets.pairs import FileClips
from vidsift.files import write_text
from vidsift.training.denoise import Judgement, precision_recall
from vidsift.training.weights import write_weights

WEIGHTS, CLEANED, REPORT, PAGE = "weights.json", "captions.jsonl", "report.json", "report.md"
_EXAMPLES = 15


def write_denoising(found: Judgement, folder: Path, soft: bool, threshold: float) -> dict[str, Any]:
    """Write everything into a folder; returns the figures.

    soft: captions weigh as much as they are likely to be right; else 1 or, below the threshold, 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = found.posterior if soft else found.kept.astype(np.float64)
    write_weights(folder / WEIGHTS, found.pairs, weights)
    _write_captions(found, folder / CLEANED)
    figures = _figures(found, threshold)
    write_text(folder / REPORT, json.dumps(figures, indent=1) + "\n")
    _plot(found, folder)
    write_text(folder / PAGE, _page(found, figures))
    return figures


def _figures(found: Judgement, threshold: float) -> dict[str, Any]:
    captions, clips = len(found.score), len(found.pairs.clips)
    left = np.unique(found.pairs.clip_of[found.kept])
    figures: dict[str, Any] = {
        "captions": captions,
        "clips": clips,
        "kept": int(found.kept.sum()),
        "clips_left": len(left),
        "estimated_noise": round(found.noise, 4),
        "threshold": threshold,
        "cut": round(found.cut, 4),
    }
    if found.truth is not None:
        precision, recall = precision_recall(found.score, found.truth)
        dropped = ~found.kept
        hits = int((dropped & found.truth).sum())
        figures["injected"] = {
            "share": round(float(found.truth.mean()), 4),
            "precision": round(hits / max(1, int(dropped.sum())), 4),
            "recall": round(hits / max(1, int(found.truth.sum())), 4),
            "precision_at_recall_0.8": round(float(precision[np.argmax(recall >= 0.8)]), 4),
            "auc": round(_auc(found), 4),
        }
    return figures


def _auc(found: Judgement) -> float:
    """How often a right caption scores above a wrong one."""
    assert found.truth is not None
    order = np.argsort(np.argsort(found.score, kind="stable"), kind="stable") + 1.0
    right = int((~found.truth).sum())
    wrong = len(order) - right
    return float((order[~found.truth].sum() - right * (right + 1) / 2) / max(1, right * wrong))


def _write_captions(found: Judgement, path: Path) -> None:
    """The kept captions as a table that recipes read (`data.source: jsonl`), where clips are files."""
    clips, lines = found.pairs.clips, []
    for number in np.flatnonzero(found.kept).tolist():
        clip = int(found.pairs.clip_of[number])
        row: dict[str, Any] = {"video": clips.name(clip), "caption": found.pairs.captions[number]}
        if isinstance(clips, FileClips):
            video = clips.videos[clip]
            row["video"] = str(video.path.resolve())
            row |= {k: v for k, v in (("start", video.start), ("end", video.end)) if v is not None}
        row["right"] = round(float(found.posterior[number]), 4)
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _plot(found: Judgement, folder: Path) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = picture.subplots()
    everything = np.concatenate([found.score, found.right, found.wrong])
    edges = np.linspace(np.percentile(everything, 0.1), np.percentile(everything, 99.9), 60).tolist()
    axes.hist(found.score, edges, density=True, color="0.8", label="training captions")
    for scores, colour, label in (
        (found.wrong, "tab:red", "validation, wrong clips"),
        (found.right, "tab:green", "validation, own clips"),
    ):
        axes.hist(scores, edges, density=True, histtype="step", color=colour, linewidth=1.5, label=label)
    axes.axvline(found.cut, color="black", linestyle="--", linewidth=1, label=f"cut at {found.cut:.2f}")
    axes.set_xlabel("own clip, standard deviations above the mean clip")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8)
    picture.savefig(folder / "scores.png", dpi=120)
    if found.truth is None:
        return
    picture = Figure(figsize=(4.5, 3.6), layout="constrained")
    axes = picture.subplots()
    precision, recall = precision_recall(found.score, found.truth)
    axes.plot(recall[20:], precision[20:], color="tab:blue")
    axes.set_xlabel("recall of wrong captions")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    picture.savefig(folder / "precision-recall.png", dpi=120)


def _page(found: Judgement, figures: dict[str, Any]) -> str:
    lines = [
        "# Denoised captions",
        "",
        f"{figures['kept']:,} of {figures['captions']:,} captions are kept, {figures['clips_left']:,} of "
        f"{figures['clips']:,} clips have one. Estimated share of wrong captions: "
        f"{figures['estimated_noise']:.1%}. A caption is kept if it is right with a probability of at least "
        f"{figures['threshold']:g}, which is a score of {figures['cut']:.2f}.",
        "",
        "![scores](scores.png)",
        "",
    ]
    if "injected" in figures:
        known = figures["injected"]
        lines += [
            f"Noise was put in ({known['share']:.0%}): dropped captions are wrong with a precision of "
            f"{known['precision']:.3f} and a recall of {known['recall']:.3f}; at a recall of 0.8 the "
            f"precision is {known['precision_at_recall_0.8']:.3f}; AUC {known['auc']:.3f}.",
            "",
            "![precision and recall](precision-recall.png)",
            "",
        ]
    order = np.argsort(found.posterior, kind="stable")
    near = np.argsort(np.abs(found.score - found.cut), kind="stable")
    for title, numbers in (("Most surely wrong", order), ("Hardest to tell", near)):
        lines += [
            f"## {title}",
            "",
            "| right | rank | caption | its clip | fits better |",
            "|--:|--:|---|---|---|",
        ]
        for number in numbers[:_EXAMPLES].tolist():
            clip, best = int(found.pairs.clip_of[number]), int(found.best[number])
            cells = [
                f"{found.posterior[number]:.3f}",
                f"{found.rank[number]:.0f}",
                found.pairs.captions[number].replace("|", "/"),
                Path(found.pairs.clips.name(clip)).name,
                "" if best == clip else Path(found.pairs.clips.name(best)).name,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
