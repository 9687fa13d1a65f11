"""`vidsift data list`, `check`, `example` and `manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsift.cli.output import DONE, SOME_FAILED, printable, progress_bar, say, say_json, show_table

if TYPE_CHECKING:
    from vidsift.datasets.check import CorpusCheck

app = typer.Typer(help="Public data sets: what there is, whether yours is whole, small examples.")
Root = Annotated[Path, typer.Option("--root", help="The data set's folder: annotations and videos.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_SHOWN = 5


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List the data sets with their splits, where their files come from, and their licence."""
    from vidsift.datasets.catalogue import DATASETS

    if as_json:
        rows = [
            {
                "name": d.name,
                "title": d.title,
                "splits": dict(d.splits),
                "paragraphs": d.paragraphs,
                "homepage": d.homepage,
                "licence": d.licence,
                "files": d.files,
                "obtain": d.obtain,
                "notes": list(d.notes),
            }
            for d in DATASETS.values()
        ]
        say_json({"datasets": rows})
        return
    for dataset in DATASETS.values():
        say(f"{dataset.name}: {dataset.title}{', paragraphs' if dataset.paragraphs else ''}")
        for label, text in (
            ("splits", ", ".join(dataset.splits)),
            ("files", dataset.files),
            ("obtain", f"{dataset.obtain} ({dataset.homepage})"),
            ("licence", dataset.licence),
            *(("note", note) for note in dataset.notes),
        ):
            say(f"  {label:8s}{text}")
    say("csv, jsonl: your own table with the columns video and caption; the split is its path")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A data set (`vidsift data list`), csv or jsonl.")],
    root: Root,
    split: Annotated[str | None, typer.Option("--split", help="For csv and jsonl: the table.")] = None,
    names_only: Annotated[
        bool, typer.Option("--names-only", help="Do not open the videos, only see whether they are there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is present, missing, corrupt and doubled, and which splits share videos.

    Ends with 1 when a video is missing, corrupt or doubled, or a caption empty.
    """
    from dataclasses import asdict

    from vidsift.datasets.catalogue import TABLES, find_dataset, open_split
    from vidsift.datasets.check import check_corpus

    corpus = open_split(name, root, split)[1] if name in TABLES else find_dataset(name).prepare(root)
    with progress_bar("checking", "videos", quiet) as advance:
        found = check_corpus(corpus, not names_only, lambda done, total: advance(done, total, ""))
    if as_json:
        say_json({"dataset": name, "root": str(root.resolve()), **asdict(found)})
    else:
        _show(found)
    raise typer.Exit(SOME_FAILED if found.broken else DONE)


def _show(found: CorpusCheck) -> None:
    columns = ("split", "role", "videos", "captions", "present", "missing", "corrupt", "empty", "repeated")
    rows = [
        (
            s.name,
            s.role,
            s.videos,
            s.captions,
            s.present,
            len(s.missing),
            len(s.corrupt),
            len(s.empty),
            s.repeated,
        )
        for s in found.splits
    ]
    show_table(columns, rows)
    for s in found.splits:
        if s.lacking:
            say(f"{s.name}: {s.lacking}")
        _some(f"{s.name}: missing", s.missing)
        _some(f"{s.name}: corrupt", list(s.corrupt.items()))
        _some(f"{s.name}: empty caption", s.empty)
    _some("same bytes", [" = ".join(group) for group in found.doubled])
    for o in found.overlaps:
        whole = " (all of one)" if o.shared in (o.of_first, o.of_second) else ""
        mark = "LEAK" if o.leak else "overlap"
        say(f"{mark}: {o.first} ({o.of_first}) and {o.second} ({o.of_second}) share {o.shared} videos{whole}")


def _some(title: str, items: tuple[str, ...] | list[str] | list[tuple[str, str]]) -> None:
    for item in items[:_SHOWN]:
        say(f"{title}: {printable(item if isinstance(item, str) else ': '.join(item))}")
    if len(items) > _SHOWN:
        say(f"{title}: ... and {len(items) - _SHOWN} more (--json lists all)")


@app.command()
def example(
    name: Annotated[str, typer.Argument(help="A data set (`vidsift data list`).")],
    root: Root,
    train: Annotated[int, typer.Option(min=2, help="Videos for training.")] = 40,
    val: Annotated[int, typer.Option(min=2, help="Videos for validation.")] = 10,
    test: Annotated[int, typer.Option(min=2, help="Videos for the test.")] = 10,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Render storyboard videos and lay them out in a data set's own files, to try a pipeline on them."""
    from vidsift.datasets.example import write_example

    with progress_bar("rendering", "videos", quiet) as advance:
        write_example(name, root, (train, val, test), lambda done, total: advance(done, total, ""))
    say(f"{train + val + test} storyboard videos in the layout of {name} in {root}")


@app.command()
def manifest(
    name: Annotated[str, typer.Argument(help="A data set (`vidsift data list`).")],
    root: Root,
    to: Annotated[Path, typer.Option("--to", help="The .jsonl file to write.")],
    split: Annotated[str | None, typer.Option("--split", help="Default: the test split.")] = None,
) -> None:
    """Write one split as a table with the columns video, caption, start, end and id."""
    from vidsift.datasets.catalogue import open_split
    from vidsift.datasets.corpus import write_manifest

    chosen, corpus = open_split(name, root, split)
    write_manifest(corpus, to)
    say(f"{len(corpus.captions)} captions of {len(corpus.videos)} videos ({chosen}) in {to}")
