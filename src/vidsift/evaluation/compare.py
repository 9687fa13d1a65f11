"""Runs beside each other: paired differences, cost, transfer between data sets, and published rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidsift.errors import DataError
from vidsift.evaluation.evaluate import T2V
from vidsift.evaluation.intervals import Difference, paired
from vidsift.evaluation.metrics import Ranks
from vidsift.evaluation.published import PublishedRow
from vidsift.evaluation.report import FORMAT, QUERIES, REPORT
from vidsift.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAIN = ("index", "two-stage", "similarity", "coarse")
_RECALLS = ("r1", "r5", "r10")


@dataclass(frozen=True)
class Run:
    """One evaluation, read back.  ranks, clips: [T] of the chosen row, in the order of the captions."""

    name: str
    document: dict[str, Any]
    row: dict[str, Any]
    ranks: Ranks
    clips: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def where(self) -> str:
        """Data set and split."""
        protocol = self.document["protocol"]
        return f"{protocol['dataset']}/{protocol['split']}"


@dataclass(frozen=True)
class Comparison:
    """differences: of every run from the first, or why it cannot be paired with it; None for the first."""

    runs: tuple[Run, ...]
    differences: tuple[dict[str, Difference] | str | None, ...]
    published: tuple[PublishedRow, ...]


def read_run(folder: Path, score: str | None = None) -> Run:
    """An evaluation's folder.

    score: the row that stands for it; None takes the index's, else two stages, else the similarity.
    Raises DataError for a folder without a whole report, and for a score that it does not have.
    """
    try:
        document = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with (folder / QUERIES).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(
            f"{folder}: holds no report of `vidsift eval` ({error.filename} is missing)"
        ) from error
    except ValueError as error:
        raise DataError(f"{folder / REPORT}: not JSON: {error}") from error
    if document.get("format") != FORMAT:
        raise DataError(
            f"{folder / REPORT}: has format {document.get('format')}, this vidsift reads {FORMAT}"
        )
    plain = {
        row["score"]: row for row in document["rows"] if row["direction"] == T2V and row["rescoring"] is None
    }
    chosen = score or next(name for name in _MAIN if name in plain)
    if chosen not in plain:
        raise DataError(f"{folder}: has no row for {chosen}; it has {', '.join(plain)}")
    row = plain[chosen]
    return Run(
        folder.name,
        document,
        row,
        np.array([float(found[row["name"]]) for found in rows]),
        tuple(found["clip"] for found in rows),
        tuple(found["caption"] for found in rows),
    )


def compare(runs: Sequence[Run], published: Sequence[PublishedRow] = ()) -> Comparison:
    """Pair every run with the first, caption by caption, where both answered the same captions."""
    first = runs[0]
    differences: list[dict[str, Difference] | str | None] = [None]
    for run in runs[1:]:
        if run.where != first.where:
            differences.append(f"other data than {first.name}")
        elif (
            run.captions != first.captions
            or run.document["protocol"]["gallery"] != (first.document["protocol"]["gallery"])
        ):
            differences.append(f"other captions or gallery than {first.name}")
        else:
            _, clusters = np.unique(np.array(run.clips), return_inverse=True)
            differences.append(paired(first.ranks, run.ranks, clusters.astype(np.int64)))
    return Comparison(tuple(runs), tuple(differences), tuple(published))


HEADER = (
    "run",
    "data",
    "score",
    "R@1",
    "R@5",
    "R@10",
    "gallery",
    "R@1 less the first's",
    "p",
    "ms/query",
    "bytes/clip",
    "ms/clip",
)


def table(found: Comparison) -> list[list[str]]:
    """Rows under HEADER."""
    rows = []
    for run, difference in zip(found.runs, found.differences, strict=True):
        cost, row = run.document["cost"], run.row
        apart, p = "", ""
        if isinstance(difference, str):
            apart = difference
        elif difference is not None:
            d = difference["r1"]
            apart, p = f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]", f"{d.p:.3f}"
        query = (
            sum(run.document["index"]["milliseconds"].values()) if row["score"] == "index" else cost["query"]
        )
        rows.append(
            [
                run.name,
                run.where,
                row["score"],
                *(_with_interval(row, name) for name in _RECALLS),
                f"{row['metrics']['gallery']:,}",
                apart,
                p,
                f"{query:.2f}",
                f"{cost['bytes_per_clip']:,}",
                f"{cost['clip']:.1f}",
            ]
        )
    return rows


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row["intervals"][name]
    return f"{row['metrics'][name]:.1f} ± {(high - low) / 2:.1f}"


def transfer(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """R@1 of every model on every data set: header and rows; empty when all runs are of one."""
    places = list(dict.fromkeys(run.where for run in found.runs))
    if len(places) < 2:
        return [], []
    models = list(dict.fromkeys(run.document["protocol"]["model"] for run in found.runs))
    cell = {
        (run.document["protocol"]["model"], run.where): _with_interval(run.row, "r1") for run in found.runs
    }
    header = ["model, R@1", *places]
    return header, [
        [
            Path(model).parent.name if Path(model).name == "model" else Path(model).name,
            *(cell.get((model, place), "") for place in places),
        ]
        for model in models
    ]


def published_table(rows: Sequence[PublishedRow]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; what was rescored comes last and says so."""
    header = ["method", "backbone", "direction", "rescoring", "R@1", "R@5", "R@10", "source", "mind"]
    body = [
        [
            row.method,
            row.backbone,
            row.direction,
            row.rescoring or "",
            *("" if value is None else f"{value:.1f}" for value in (row.r1, row.r5, row.r10)),
            f"{row.source} ({row.trust})",
            row.caveat,
        ]
        for row in rows
    ]
    return header, body


def markdown(found: Comparison) -> str:
    """The comparison as Markdown."""
    parts = ["# Comparison", "", *_markdown_table(HEADER, table(found)), ""]
    parts += [f"- {run.name}: `{run.document['protocol']['line']}`" for run in found.runs]
    machines = sorted({run.document["cost"]["machine"] for run in found.runs})
    parts += ["", f"Costs were measured on {'; '.join(machines)}. ± is half a 95% bootstrap interval."]
    header, rows = transfer(found)
    if rows:
        parts += ["", "## Transfer", "", *_markdown_table(header, rows)]
    if found.published:
        header, rows = published_table(found.published)
        parts += [
            "",
            "## Published",
            "",
            "Other people's numbers, with their own selection and hardware; rescored rows are kept apart.",
            "",
            *_markdown_table(header, rows),
        ]
    return "\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "runs": [
            {
                "run": run.name,
                "protocol": run.document["protocol"],
                "row": run.row,
                "cost": run.document["cost"],
                "difference": {name: asdict(d) for name, d in difference.items()}
                if isinstance(difference, dict)
                else difference,
            }
            for run, difference in zip(found.runs, found.differences, strict=True)
        ],
        "published": [asdict(row) for row in found.published],
    }


def write_comparison(found: Comparison, out: Path) -> None:
    """Write comparison.json, .md and .png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "comparison.png", lambda path: _plot(path, found))
    write_text(out / "comparison.md", markdown(found) + "\n![quality against cost](comparison.png)\n")
    write_text(out / "comparison.json", json.dumps(document(found), indent=1) + "\n")


def _plot(path: Path, found: Comparison) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(1, 3, sharey=True)
    for axes, (key, label) in zip(
        panels,
        (
            ("query", "milliseconds per query"),
            ("bytes_per_clip", "bytes per clip"),
            ("clip", "milliseconds per clip to index"),
        ),
        strict=True,
    ):
        _scatter(axes, found, key)
        axes.set_xlabel(label)
    panels[0].set_ylabel("R@1, %")
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    canvas.savefig(path, format="png", dpi=144)


def _scatter(axes: Axes, found: Comparison, key: str) -> None:
    costs = []
    for run in found.runs:
        low, high = run.row["intervals"]["r1"]
        value, cost = run.row["metrics"]["r1"], run.document["cost"][key]
        errors: NDArray[np.float64] = np.array([[max(0.0, value - low)], [max(0.0, high - value)]])
        costs.append(cost)
        axes.errorbar(cost, value, yerr=errors, fmt="o", capsize=3, label=run.name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if max(costs) > 20 * min(costs):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.15 * max(costs))
