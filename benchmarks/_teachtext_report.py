"""The report of teachtext.py: a table, the claims with intervals, two plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _estimate import Estimate, Results, difference, estimate, of, pick
from _report import REPORTS, write

# Rows by the question that they answer.
GROUPS = {
    "Text encoders": (
        *("words", "tower", "tuned tower", "tower, taught by 1", "tower, taught by 2"),
        *("tower, taught by 3", "tower, taught by 3, weighted", "tower, taught by itself"),
        "words, taught by 3",
    ),
    "Modalities": (
        *("appearance", "tower", "all experts", "pixels, taught by all experts"),
        *("appearance, taught by pixels", "appearance, taught by all experts"),
    ),
    "Noise": (
        "tower",
        *(f"noise {s}{how}" for s in ("20%", "40%") for how in ("", ", denoised", ", weighed")),
        *(f"noise {s}, without the wrong ones" for s in ("20%", "40%")),
    ),
}
CLAIMS = (
    ("A student is better taught by a teacher with another text encoder", "tower, taught by 1", "tower"),
    ("... than taught by itself", "tower, taught by 1", "tower, taught by itself"),
    ("... two text teachers are better than one", "tower, taught by 2", "tower, taught by 1"),
    ("... three better than two", "tower, taught by 3", "tower, taught by 2"),
    ("... weighted by validation better than the mean", "tower, taught by 3, weighted", "tower, taught by 3"),
    ("... the student beats its teacher", "tower, taught by 1", "words"),
    ("The best encoder is better taught by three", "words, taught by 3", "words"),
    ("More experts are better", "all experts", "tower"),
    ("A student of pixels is better taught by all experts", "pixels, taught by all experts", "tower"),
    (
        "A student of appearance is better taught by all experts",
        "appearance, taught by all experts",
        "appearance",
    ),
    (
        "... than taught by one of pixels",
        "appearance, taught by all experts",
        "appearance, taught by pixels",
    ),
    ("Denoising helps at 20% noise", "noise 20%, denoised", "noise 20%"),
    ("Denoising helps at 40% noise", "noise 40%, denoised", "noise 40%"),
    ("... dropping is better than weighing", "noise 40%, denoised", "noise 40%, weighed"),
    (
        "... it reaches what knowing the wrong ones gives",
        "noise 40%, denoised",
        "noise 40%, without the wrong ones",
    ),
    ("... and what clean captions give", "noise 40%, denoised", "tower"),
)


def collect(work: Path, seeds: Sequence[int], rows: Mapping[str, Any], run_name: Any) -> Results:
    """Every result that there is, by row and seed."""
    found: Results = {}
    for name in rows:
        for seed in seeds:
            path = work / run_name(name, seed) / "result.json"
            if path.exists():
                found.setdefault(name, {})[seed] = json.loads(path.read_text())
    return found


def recovered(results: Results, low: str, found: str, high: str, where: str) -> Estimate | None:
    """The share of the way from `low` to `high` that `found` has gone, seed by seed, in percent.

    The mean of the ways is divided by the mean of the whole, so that a seed with a small gap does not rule.
    """
    common = sorted(
        results.get(low, {}).keys() & results.get(found, {}).keys() & results.get(high, {}).keys()
    )
    if len(common) < 2:
        return None
    whole = sum(pick(results[high][s], where) - pick(results[low][s], where) for s in common) / len(common)
    return estimate(
        [100 * (pick(results[found][s], where) - pick(results[low][s], where)) / whole for s in common]
    )


@dataclass(frozen=True)
class Share:
    """A share of a gap that was closed."""

    what: str
    low: str
    found: str
    high: str


SHARES = (
    Share("text: the student's gap to its first teacher", "tower", "tower, taught by 1", "words"),
    Share(
        "modalities: appearance to all experts",
        "appearance",
        "appearance, taught by all experts",
        "all experts",
    ),
    Share("modalities: pixels to all experts", "tower", "pixels, taught by all experts", "all experts"),
    Share("denoising: what 20% noise cost", "noise 20%", "noise 20%, denoised", "tower"),
    Share("denoising: what 40% noise cost", "noise 40%", "noise 40%, denoised", "tower"),
)
PICTURES = ("scores.png", "precision-recall.png")
_KEYS = ("t2v.r1", "t2v.r5", "t2v.r10", "t2v.mdr", "v2t.r1")


def report(work: Path, seeds: Sequence[int], rows: Mapping[str, Any], matching: float) -> None:
    """Write reports/teachtext.json, .md and .png of what there is."""
    from teachtext import run_name

    results = collect(work, seeds, rows, run_name)
    written = [
        {
            "row": name,
            "settings": asdict(rows[name]),
            "seeds": sorted(by_seed),
            **{key: asdict(of(results, name, key)) for key in _KEYS},
            **{key: of(results, name, key).mean for key in ("ms_per_query", "ms_per_clip", "bytes_per_clip")},
            "denoising": {seed: r["denoising"] for seed, r in by_seed.items() if r["denoising"]},
        }
        for name, by_seed in results.items()
    ]
    plot(results)
    for name in PICTURES:
        source = work / "denoised" / run_name("noise 40%, denoised", seeds[0]) / name
        if source.exists():
            shutil.copyfile(source, REPORTS / f"teachtext_{name}")
    write(
        "teachtext",
        headline=_headline(results),
        rows=written,
        packages=("torch", "numpy", "transformers"),
        text=_text(results, matching),
    )


def _headline(results: Results) -> dict[str, str]:
    found = {}
    for share in SHARES:
        one = recovered(results, share.low, share.found, share.high, "t2v.r1")
        whole = difference(results, (share.high, "t2v.r1"), (share.low, "t2v.r1"))
        if whole is not None and not whole.shows:
            found[f"R@1 gap, {share.what}"] = f"does not show ({whole.text})"
        elif one is not None:
            ends = [of(results, name, "t2v.r1").mean for name in (share.low, share.found, share.high)]
            found[f"closed of the R@1 gap, {share.what}"] = (
                f"{one.mean:.0f}% ± {one.half:.0f} ({ends[0]:.1f} -> {ends[1]:.1f} of {ends[2]:.1f})"
            )
    for level in ("20%", "40%"):
        found_by = _finding(results, f"noise {level}, denoised")
        if found_by:
            found[f"precision at recall 0.8 of finding wrong captions, {level} noise"] = found_by[
                "precision_at_recall_0.8"
            ].text3
    return found


class _Fine(Estimate):
    @property
    def text3(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def _finding(results: Results, row: str) -> dict[str, _Fine]:
    runs = [r["denoising"] for r in results.get(row, {}).values() if r["denoising"]]
    if not runs:
        return {}
    keys = ("precision", "recall", "precision_at_recall_0.8", "auc")
    found = {key: estimate([run["injected"][key] for run in runs]) for key in keys}
    found["estimated noise"] = estimate([run["estimated_noise"] for run in runs])
    return {key: _Fine(e.mean, e.half, e.seeds) for key, e in found.items()}


def _table(results: Results, names: Sequence[str]) -> list[str]:
    lines = [
        "| row | seeds | R@1 | R@5 | R@10 | MdR | v2t R@1 | ms/query | ms/clip | bytes/clip |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        if name not in results:
            continue
        cells = [name, str(len(results[name])), *(of(results, name, key).text for key in _KEYS)]
        cells += [
            f"{of(results, name, 'ms_per_query').mean:.2f}",
            f"{of(results, name, 'ms_per_clip').mean:.0f}",
            f"{of(results, name, 'bytes_per_clip').mean:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _text(results: Results, matching: float) -> str:
    lines = [
        "![figures](teachtext.png)",
        "",
        "One MoEE head per row over frozen features, 300 steps of 64 pairs, max margin 0.2; a taught row",
        f"adds {matching:g} times the smooth-L1 distance to its teachers' cosines. `tower`: appearance and",
        "frames of clip-tiny, texts by its own tower (the student of every group). `words`: the same with",
        "static word vectors made of the training captions. `tuned tower`: texts by vidsift-tiny's tower.",
        "`all experts`: also motion, audio, speech and ocr; four of five videos have sound, two of three",
        "speech, two of three writing. `appearance`: the mean frame vector alone. Mean over seeds ± half of",
        "the 95% interval. ms/query: CPU milliseconds of a text and its scores with 1,000 clips; ms/clip: of",
        "running the experts.",
    ]
    for title, names in GROUPS.items():
        lines += ["", f"## {title}", "", *_table(results, names)]
    lines += [
        "",
        "## Claims",
        "",
        "Differences are paired by seed; an effect shows if its interval leaves out 0.",
        "",
    ]
    lines += ["| claim | R@1 | R@5 | answer (R@1, R@5) |", "|---|--:|--:|---|"]
    for claim, a, b in CLAIMS:
        pair = [difference(results, (a, key), (b, key)) for key in ("t2v.r1", "t2v.r5")]
        if pair[0] is None or pair[1] is None:
            continue
        cells = [f"{d.mean:+.1f} ± {d.half:.1f}" for d in pair if d is not None]
        answers = [_answer(d) for d in pair if d is not None]
        lines.append(f"| {claim} | {cells[0]} | {cells[1]} | {', '.join(answers)} |")
    lines += ["", "## Gaps closed", "", "| gap | R@1 | R@5 |", "|---|--:|--:|"]
    for share in SHARES:
        parts = [recovered(results, share.low, share.found, share.high, key) for key in ("t2v.r1", "t2v.r5")]
        if parts[0] is not None and parts[1] is not None:
            wholes = [difference(results, (share.high, k), (share.low, k)) for k in ("t2v.r1", "t2v.r5")]
            cells = [
                f"{p.mean:.0f}% ± {p.half:.0f}" if w is not None and w.shows else "there is no gap that shows"
                for p, w in zip(parts, wholes, strict=True)
                if p is not None
            ]
            lines.append(f"| {share.what} | {cells[0]} | {cells[1]} |")
    lines += ["", "## Finding wrong captions", ""]
    lines += [f"![{name}](teachtext_{name})" for name in PICTURES]
    lines += ["", "The pictures are of one seed at 40% noise.", ""]
    lines += [
        "Two judges (texts by the tower, texts by words), three folds, threshold 0.5 on the posterior.",
        "",
    ]
    lines += [
        "| noise | precision | recall | precision at recall 0.8 | AUC | estimated noise |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for level in ("20%", "40%"):
        found = _finding(results, f"noise {level}, denoised")
        if found:
            lines.append(f"| {level} | {' | '.join(e.text3 for e in found.values())} |")
    return "\n".join(lines)


def _answer(found: Estimate) -> str:
    if not found.shows:
        return "does not show"
    return "yes" if found.mean > 0 else "the opposite"


def plot(results: Results) -> None:
    """R@1 of every group's rows with intervals."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(13, 4.6), layout="constrained")
    for axes, (title, names) in zip(picture.subplots(1, len(GROUPS)), GROUPS.items(), strict=True):
        shown = [name for name in names if name in results]
        found = [of(results, name, "t2v.r1") for name in shown]
        places = list(range(len(shown)))[::-1]
        colours = ["tab:orange" if "taught" in n or "denoised" in n else "tab:blue" for n in shown]
        halves = [e.half if e.half < 100 else 0 for e in found]
        axes.barh(places, [e.mean for e in found], xerr=halves, color=colours, height=0.7, capsize=2)
        axes.set_yticks(places, shown, fontsize=8)
        axes.set_xlabel("R@1 (test, 1,000 videos)")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    picture.savefig(REPORTS / "teachtext.png", dpi=110)
