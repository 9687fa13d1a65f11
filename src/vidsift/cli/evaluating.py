"""`vidsift eval` and `vidsift compare`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsift.cli.output import Bars, say, say_json, show_table
from vidsift.errors import DataError

if TYPE_CHECKING:
    from vidsift.datasets.pairs import OnBad, PairSet
    from vidsift.models import RetrievalModel

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder or name.")],
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="storyboard, a data set (`vidsift data list`), csv or jsonl."),
    ],
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the data set, or of the videos.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", "-s", help="Default: the test split; for csv and jsonl the table."),
    ] = None,
    scores: Annotated[
        str, typer.Option("--scores", help="Of coarse, similarity, search, two-stage; with commas.")
    ] = "coarse,similarity,two-stage",
    rescore: Annotated[
        str, typer.Option("--rescore", help="Transductive rows as well: dsl, qb-norm; with commas.")
    ] = "",
    bank: Annotated[
        str | None, typer.Option("--bank", help="For qb-norm: the split whose captions are the bank.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", "-i", help="Ask an index of these videos, too.")
    ] = None,
    videos: Annotated[int | None, typer.Option("--videos", min=2, help="Only the first so many.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    features: Annotated[Path, typer.Option("--features", help="Where what the towers say is kept.")] = Path(
        "runs/features"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Report folder; default runs/eval/<dataset>-<split>-<model>.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out missing and broken videos and empty captions.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a data set: recalls with intervals in both directions, costs, a page to look at."""
    from vidsift.evaluation.evaluate import Options, open_material
    from vidsift.evaluation.evaluate import evaluate as measure
    from vidsift.evaluation.report import FIGURES, PAGE, TITLES, Report, cells, write_report
    from vidsift.evaluation.through_index import evaluate_index
    from vidsift.index import Index
    from vidsift.models import load_model

    try:
        options = Options(_listed(scores), _listed(rescore))
    except ValueError as error:
        raise DataError(str(error)) from error
    if "qb-norm" in options.rescoring and bank is None:
        raise DataError("--rescore qb-norm needs --bank, the training split whose captions it takes")
    loaded = load_model(model, device)
    on_bad: OnBad = "skip" if skip_bad else "stop"
    name, pairs, paragraphs = _open(loaded, dataset, root, split, videos, on_bad)
    opened = Index.open(index) if index is not None else None
    if opened is not None:
        opened.check_model(loaded)
    with ExitStack() as stack:
        bars = Bars(stack, quiet)
        material = open_material(loaded, pairs, features, on_bad, bars.rows)
        other = None
        if bank is not None and "qb-norm" in options.rescoring:
            _, captions, _ = _open(loaded, dataset, root, bank, None, on_bad)
            other = open_material(loaded, captions, features, on_bad, bars.rows)
        found = measure(material, dataset, name, options, paragraphs, other, bars.rows)
        asked = None
        if opened is not None:
            asked = evaluate_index(
                opened,
                loaded,
                material.pairs,
                progress=lambda done, rows: bars.rows("asking the index", done, rows),
            )
    report = Report(found, asked)
    folder = out or Path("runs/eval") / f"{dataset}-{name}-{_called(model)}"
    write_report(report, material, folder)
    if as_json:
        say_json(report.document() | {"report": str(folder.resolve())})
        return
    say(found.protocol.line())
    shown = ("r1", "r5", "r10", "mdr", "mnr")
    kept = [0, 1, 2, *(3 + FIGURES.index(name) for name in shown), -2, -1]
    table = [[row[k] for k in kept] for row in map(cells, report.rows)]
    show_table(["score", "direction", "rescoring", *(TITLES[n] for n in shown), "queries", "gallery"], table)
    say(f"report in {folder / PAGE}")


def _open(
    model: RetrievalModel,
    dataset: str,
    root: Path | None,
    split: str | None,
    videos: int | None,
    on_bad: OnBad,
) -> tuple[str, PairSet, bool]:
    """A split's name, its pairs, and whether its texts are paragraphs."""
    from vidsift.datasets.catalogue import DATASETS, open_split
    from vidsift.datasets.pairs import file_pairs, first_clips, story_pairs
    from vidsift.video import Geometry

    # Experts look at clips in their own ways.
    geometry = model.preprocess.geometry if model.sees_frames else Geometry(64)
    if dataset in ("storyboard", "storyboard-channels"):
        chosen, channels = split or "test", dataset != "storyboard"
        return chosen, story_pairs(chosen, videos, model.frames_per_clip, geometry, channels), False
    if root is None:
        raise DataError(f"{dataset} needs --root, the folder of its annotations and videos")
    name, corpus = open_split(dataset, root, split)
    title = f"{dataset}-{name}"
    pairs = file_pairs(title, first_clips(corpus, videos), model.frames_per_clip, geometry, on_bad)
    return name, pairs, dataset in DATASETS and DATASETS[dataset].paragraphs


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _called(model: str) -> str:
    path = Path(model)
    # A trained run's model lies in RUN/model.
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Report folders of `vidsift eval`; the first is the base.")
    ],
    score: Annotated[
        str | None,
        typer.Option("--score", help="The row to compare; default: index, two-stage or similarity."),
    ] = None,
    published: Annotated[
        str | None, typer.Option("--published", help="Add published rows of DATASET/SPLIT, or `same`.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write Markdown, JSON and a plot here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set evaluations side by side: paired differences, cost, transfer, published rows."""
    from vidsift.evaluation import compare as side_by_side
    from vidsift.evaluation.published import published_for

    read = [side_by_side.read_run(folder, score) for folder in runs]
    place = read[0].where if published == "same" else published
    rows = published_for(*place.split("/", 1)) if place and "/" in place else ()
    if place and "/" not in place:
        raise DataError(f"--published takes DATASET/SPLIT, such as msrvtt/test-1ka, not {place!r}")
    found = side_by_side.compare(read, rows)
    if out is not None:
        side_by_side.write_comparison(found, out)
    if as_json:
        say_json(side_by_side.document(found))
        return
    show_table(side_by_side.HEADER, side_by_side.table(found))
    header, body = side_by_side.transfer(found)
    if body:
        say()
        show_table(header, body)
    if found.published:
        say()
        show_table(*side_by_side.published_table(found.published))
    if out is not None:
        say(f"comparison in {out}")
