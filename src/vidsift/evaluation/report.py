"""A folder that says what was measured: JSON, Markdown, the rank of every query, plots, a page to look at."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet
from vidsift.evaluation.evaluate import T2V, Evaluation, Material, Row
from vidsift.evaluation.metrics import Ranks
from vidsift.evaluation.through_index import IndexEvaluation
from vidsift.files import write_atomically, write_text
from vidsift.video.thumbnail import jpeg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1
REPORT, QUERIES, CLIPS, PAGE = "report.json", "queries.csv", "clips.csv", "report.html"
_SHOWN, _TOP, _STRIP, _HEIGHT = 8, 3, 4, 96
FIGURES = ("r1", "r5", "r10", "r50", "mdr", "mnr", "sum", "geometric")
TITLES = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "r50": "R@50",
    "mdr": "MdR",
    "mnr": "MnR",
    "sum": "SumR",
    "geometric": "geom.",
}


@dataclass(frozen=True)
class Report:
    """An evaluation and, if it was also made through an index, that."""

    found: Evaluation
    index: IndexEvaluation | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of plain figures first, rescored ones after them."""
        rows = (*self.found.rows, *((self.index.row,) if self.index else ()))
        return tuple(sorted(rows, key=lambda row: row.rescoring is not None))

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "protocol": asdict(self.found.protocol) | {"line": self.found.protocol.line()},
            "rows": [
                {
                    "name": row.name,
                    "score": row.score,
                    "direction": row.direction,
                    "rescoring": row.rescoring,
                    "metrics": asdict(row.metrics),
                    "intervals": {name: list(pair) for name, pair in row.intervals.items()},
                }
                for row in self.rows
            ],
            "nan": self.found.nan,
            "cost": asdict(self.found.cost) | {"query": self.found.cost.query, "clip": self.found.cost.clip},
            "seconds": self.found.seconds,
        }
        if self.index is not None:
            document["index"] = {
                "depth": self.index.depth,
                "milliseconds": self.index.milliseconds,
                "strangers": self.index.strangers,
                "absent": self.index.absent,
            }
        return document


def figure(row: Row, name: str) -> str:
    """One figure with half its interval."""
    value = getattr(row.metrics, name)
    text = f"{value:.1f}"
    if name in row.intervals:
        low, high = row.intervals[name]
        text += f" ± {(high - low) / 2:.1f}"
    return text


def notes(report: Report) -> list[str]:
    """What a reader has to know of the rows."""
    rows = report.rows
    said = ["± is half a 95% bootstrap interval over clips; a tie takes the mean of the ranks it spans."]
    if any(row.direction.endswith("groups") for row in rows):
        said.append(
            "Clips that have several captions rank texts in two ways that do not compare: among all captions "
            "(the clip's best one counts; Collaborative Experts, MMT) or among groups of captions, one per "
            "clip (CLIP4Clip and its followers)."
        )
    if any(row.rescoring for row in rows):
        said.append(
            "Rescored rows look at all queries of the test together, which a search engine cannot: never "
            "compare them with other rows."
        )
    bad = {name: count for name, count in report.found.nan.items() if count}
    if bad:
        said.append(f"Scores that were not a number, counted as worst: {bad}.")
    if report.index is not None:
        index = report.index
        said.append(
            f"The index gives its first {index.depth} hits: a video that is not among them counts as last, "
            f"so its median and mean ranks say little. Its gallery holds {index.strangers} videos that the "
            f"split has not, and lacks {index.absent} that it has."
        )
    return said


def costs(report: Report) -> list[tuple[str, str]]:
    """Costs as rows of a table."""
    cost = report.found.cost
    rows = [
        (
            "a query",
            f"{cost.query:.2f} ms: {cost.encode:.2f} its text, {cost.recall:.2f} recall over "
            f"{cost.gallery:,} clips, {cost.rerank:.2f} the best {cost.candidates} of them",
        ),
        ("a clip in the index", f"{cost.bytes_per_clip:,} bytes"),
        (
            "indexing a clip",
            f"{cost.clip:.1f} ms: {cost.read:.1f} its frames, {cost.embed:.1f} the model",
        ),
    ]
    if report.index is not None:
        ms = report.index.milliseconds
        whole = ", ".join(f"{value:.2f} {stage}" for stage, value in ms.items())
        rows.append(("a query through the index", f"{sum(ms.values()):.2f} ms: {whole}"))
    return [*rows, ("measured on", cost.machine)]


def markdown(report: Report) -> str:
    """The report as Markdown."""
    header = ["score", "direction", "rescoring", *(TITLES[name] for name in FIGURES), "queries", "gallery"]
    lines = [
        "# Evaluation",
        "",
        f"`{report.found.protocol.line()}`",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cells(row)) + " |" for row in report.rows),
        "",
        *(f"- {note}" for note in notes(report)),
        "",
        "| cost | |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in costs(report)),
        "",
    ]
    return "\n".join(lines)


def cells(row: Row) -> list[str]:
    """A row of the table of figures."""
    return [
        row.score,
        row.direction,
        row.rescoring or "",
        *(figure(row, name) for name in FIGURES),
        f"{row.metrics.queries:,}",
        "" if row.metrics.gallery is None else f"{row.metrics.gallery:,}",
    ]


def write_report(report: Report, material: Material, out: Path) -> None:
    """Write everything into a folder, over a former report there."""
    out.mkdir(parents=True, exist_ok=True)
    pairs, found = material.pairs, report.found
    _write_queries(out / QUERIES, report, pairs)
    _write_clips(out / CLIPS, found, pairs)
    write_text(out / "report.md", markdown(report))
    texts = {row.name: _ranks(report, row) for row in report.rows if row.direction == T2V}
    plots = [out / "recall.png", out / "ranks.png"]
    write_atomically(plots[0], lambda path: _plot(path, lambda axes: _recall(axes, texts)))
    name = main_row(report).name
    write_atomically(plots[1], lambda path: _plot(path, lambda axes: _histogram(axes, name, texts[name])))
    write_text(out / PAGE, _page(report, material, plots))
    # Last, so that a folder with one is whole.
    write_text(out / REPORT, json.dumps(report.document(), indent=1) + "\n")


def _ranks(report: Report, row: Row) -> Ranks:
    if report.index is not None and row is report.index.row:
        return report.index.ranks
    return report.found.ranks[row.name]


def main_row(report: Report) -> Row:
    """The row that stands for the model: two stages if they were measured, else its own similarity."""
    rows = [row for row in report.found.rows if row.direction == T2V and row.rescoring is None]
    for name in ("two-stage", "similarity"):
        for row in rows:
            if row.score == name:
                return row
    return rows[0]


def _write_queries(path: Path, report: Report, pairs: PairSet) -> None:
    columns = {row.name: _ranks(report, row) for row in report.rows if row.direction == T2V}
    names = [pairs.clips.name(n) for n in range(len(pairs.clips))]
    rows = (
        [text, names[clip], *(f"{ranks[n]:g}" for ranks in columns.values())]
        for n, (text, clip) in enumerate(zip(pairs.captions, pairs.clip_of.tolist(), strict=True))
    )
    _write_csv(path, ["caption", "clip", *columns], rows)


def _write_clips(path: Path, found: Evaluation, pairs: PairSet) -> None:
    columns = {row.name: found.ranks[row.name] for row in found.rows if row.direction != T2V}
    rows = (
        [pairs.clips.name(clip), *(f"{ranks[n]:g}" for ranks in columns.values())]
        for n, clip in enumerate(found.asked.tolist())
    )
    _write_csv(path, ["clip", *columns], rows)


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)


# -- plots and page ----------------------------------------------------------------------------------------


def _plot(path: Path, draw: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    canvas.savefig(path, format="png", dpi=144)


def _recall(axes: Axes, texts: dict[str, Ranks]) -> None:
    """Share of captions whose clip is among the first k."""
    deepest = max(10, min(1000, int(max(found.max() for found in texts.values()))))
    depths = np.unique(np.round(np.geomspace(1, deepest, 60)))
    for name, found in texts.items():
        recall = [100 * np.mean(found <= k) for k in depths]
        axes.plot(depths, recall, label=name.removesuffix(f" {T2V}"), linewidth=1.8)
    axes.set(xscale="log", xlabel="k", ylabel="recall at k, %", ylim=(0, 101), xlim=(1, deepest))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _histogram(axes: Axes, name: str, found: Ranks) -> None:
    """How many captions have which rank, in bins that double."""
    edges = [1.0, 2.0]
    while edges[-1] <= found.max():
        edges.append(2 * edges[-1])
    counts, _ = np.histogram(found, edges)
    spans = [(int(a), int(b) - 1) for a, b in pairwise(edges)]
    labels = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans]
    bars = axes.bar(labels, counts, color="#4c72b0")
    axes.bar_label(bars, fontsize=8)
    axes.set(xlabel=f"rank of the right clip ({name.removesuffix(f' {T2V}')})", ylabel="captions")
    axes.tick_params(axis="x", labelrotation=30)


def _page(report: Report, material: Material, plots: list[Path]) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("vidsift.evaluation", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    worst, best = chosen_queries(report, material)
    return environment.get_template("report.html.jinja").render(
        protocol=report.found.protocol,
        header=[TITLES[name] for name in FIGURES],
        rows=[cells(row) for row in report.rows],
        notes=notes(report),
        costs=costs(report),
        plots=[_embedded(path.read_bytes(), "png") for path in plots],
        row=main_row(report),
        sections=[
            ("The worst", _cards(report, material, worst)),
            ("The best", _cards(report, material, best)),
        ],
    )


def chosen_queries(report: Report, material: Material) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the captions of the worst ranks, and of the surest of the best; a clip appears once."""
    found = report.found.ranks[main_row(report).name]
    worst = _one_per_clip(np.argsort(-found, kind="stable"), material.pairs)
    first = np.flatnonzero(found == found.min())
    scores = material.scores(main_row(report).score)
    lead = []
    for start in range(0, len(first), 256):
        numbers = first[start : start + 256]
        rows = scores.rows(numbers)
        own = rows[np.arange(len(numbers)), material.pairs.clip_of[numbers]].copy()
        rows = rows.copy()
        rows[np.arange(len(numbers)), material.pairs.clip_of[numbers]] = -np.inf
        lead.append(own - rows.max(axis=1))
    best = _one_per_clip(first[np.argsort(-np.concatenate(lead), kind="stable")], material.pairs)
    return worst, best


def _one_per_clip(numbers: NDArray[np.int64], pairs: PairSet) -> NDArray[np.int64]:
    _, place = np.unique(pairs.clip_of[numbers], return_index=True)
    return numbers[np.sort(place)][:_SHOWN]


def _cards(report: Report, material: Material, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
    row = main_row(report)
    found, pairs = report.found.ranks[row.name], material.pairs
    scores = material.scores(row.score).rows(numbers)
    cards = []
    for k, number in enumerate(numbers.tolist()):
        own = int(pairs.clip_of[number])
        top = np.argsort(-scores[k], kind="stable")[:_TOP].tolist()
        cards.append(
            {
                "text": pairs.captions[number],
                "rank": f"{found[number]:g}",
                "right": _picture(pairs, own),
                "top": [_picture(pairs, clip) | {"right": clip == own} for clip in top],
            }
        )
    return cards


def _picture(pairs: PairSet, clip: int) -> dict[str, Any]:
    """Some frames of a clip side by side."""
    pixels, mask = pairs.clips.read(clip)
    real = np.flatnonzero(mask)
    chosen = real[np.linspace(0, len(real) - 1, min(_STRIP, len(real))).round().astype(int)]
    strip = np.concatenate(list(pixels[chosen].transpose(0, 2, 3, 1)), axis=1)
    step = max(1, round(strip.shape[0] / _HEIGHT))
    data = jpeg(np.ascontiguousarray(strip[::step, ::step]))
    return {"name": Path(pairs.clips.name(clip)).name, "image": _embedded(data, "jpeg")}


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
