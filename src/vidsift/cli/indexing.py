"""`vidsift index`, `info`, `tune`, `compact` and `remove`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidsift.cli.output import (
    DONE,
    SOME_FAILED,
    clock,
    complain,
    printable,
    progress_bar,
    say,
    say_json,
    show_table,
    size,
)

if TYPE_CHECKING:
    from vidsift.ingest import IngestReport

# Text, not a Path, which would make s3:/ of s3://.
IndexFolder = Annotated[
    str, typer.Option("--index", "-i", metavar="DIR", help="The index: a folder, or s3://BUCKET/PREFIX.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


class EngineChoice(StrEnum):
    """Where files are read and encoded."""

    LOCAL = "local"
    RAY = "ray"


class Scanning(StrEnum):
    """How the clips of an index are gone over."""

    AUTO = "auto"
    EXACT = "exact"
    COMPRESSED = "compressed"
    IVF = "ivf"


class Segmentation(StrEnum):
    """How files longer than a clip may be are cut."""

    SHOTS = "shots"
    WINDOWS = "windows"
    WHOLE = "whole"


def index(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Folders and video files, or their addresses.")
    ],
    index: IndexFolder,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A bundled name, folder, preset or hub id.")
    ] = None,
    segment: Annotated[
        Segmentation | None, typer.Option(help="Cut long files at shots, in windows, or not.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="The longest clip.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Decoding processes; default: found by itself.")
    ] = None,
    engine: Annotated[
        EngineChoice, typer.Option(help="Work on this machine, or on those of a Ray cluster.")
    ] = EngineChoice.LOCAL,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster, e.g. auto; default: a Ray started here for the run.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to encode: cpu, cuda, ...; default: a GPU that is there, else cpu."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Bring an index in line with folders: new, changed, renamed and deleted files are recognised."""
    from vidsift.ingest import Progress, index_paths

    if address is not None and engine is not EngineChoice.RAY:
        raise typer.BadParameter("goes with --engine ray", param_hint="--address")
    if workers == 0 and engine is EngineChoice.RAY:
        raise typer.BadParameter("must be 1 or more with --engine ray", param_hint="--workers")
    with progress_bar("indexing", "MB", quiet) as advance:

        def show(p: Progress) -> None:
            # Bytes, not files, because one file may be most of the work.
            if p.stage == "read":
                note = f"{p.done}/{p.total} files  {Path(p.path).name}"
                advance(p.bytes_done / 1e6, p.bytes_total / 1e6, note)

        cutting = _segmentation(segment, max_seconds)
        report = index_paths(
            paths,
            index,
            model=model,
            workers=workers,
            segmentation=cutting,
            device=device,
            engine=engine.value,
            address=address,
            progress=show,
        )
    _finish(report, index, as_json)


def _segmentation(mode: Segmentation | None, max_seconds: float | None) -> Any:
    from vidsift.video import SegmentConfig

    if mode is None and max_seconds is None:
        return None
    settings: dict[str, Any] = {}
    if mode is not None:
        settings["mode"] = mode.value
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
        settings["min_seconds"] = min(max_seconds, SegmentConfig.min_seconds)
    return SegmentConfig(**settings)


def _finish(report: IngestReport, index: str, as_json: bool) -> None:
    if as_json:
        say_json(report.to_dict())
    else:
        say(
            f"{report.added} added, {report.updated} updated, {report.removed} removed, "
            f"{report.renamed} renamed, {report.unchanged} unchanged; "
            f"{report.clips} clips in {index} ({report.seconds:.1f} s)"
        )
    if report.clips == 0 and not report.failed:
        complain(f"{index}: holds no clips: no video was found")
    for title, problems in (("failed", report.failed), ("partial", report.partial)):
        for problem in problems:
            complain(f"{title}: {problem.path}: {problem.reason}")
    raise typer.Exit(SOME_FAILED if report.failed or report.partial else DONE)


def info(index: IndexFolder, as_json: AsJson = False) -> None:
    """Say what an index holds: clips, files, model, settings, and what could not be read."""
    from vidsift.index import Index

    found = Index.open(index).info()
    if as_json:
        say_json(found)
        return
    model = found["model"]
    say(f"index     {found['index']}, {size(found['bytes'])}")
    say(f"clips     {found['clips']} of {found['files']} files, {clock(found['seconds'])} in all")
    say(f"model     {model['name']}, {model['frames_per_clip']} frames a clip, {model['width']} dimensions")
    say(f"scan      {found['scan']}; {found['scan_reason']}")
    if found["words"]:
        say("words     subtitles came with some of the videos; what is said is searched, too")
    for root in found["roots"]:
        say(f"root      {printable(root)}")
    for title in ("failed", "partial"):
        for problem in found[title]:
            say(f"{title:9} {printable(problem['path'])}: {printable(problem['reason'])}")


def tune(
    index: IndexFolder,
    target: Annotated[float, typer.Option(help="Recall of the exact best 100 to be reached.")] = 0.97,
    queries: Annotated[int, typer.Option(min=1, help="Frame vectors of the index that ask.")] = 200,
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture to write, e.g. scan.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the scan of a large index on its own vectors; choose how many clips it scores exactly."""
    from dataclasses import asdict

    from vidsift.index import Index

    opened = Index.open(index)
    points = opened.tune(target, queries)
    if plot is not None and points:
        from vidsift.index.plot import plot_scan

        plot_scan(points, target, plot)
    if as_json:
        say_json({"points": [asdict(p) for p in points], "picked": opened.config.picked})
        return
    if not points:
        say(f"{index} has {len(opened)} clips: all are scored exactly, there is nothing to tune")
        return
    rows = [(f"{p.picked:,}", f"{p.recall:.3f}", f"{p.milliseconds:.2f}") for p in points]
    show_table(("picked", "recall@100", "ms"), rows)
    say(f"{opened.config.picked:,} clips are picked from now on")


def compact(
    index: IndexFolder,
    scan: Annotated[
        Scanning | None,
        typer.Option(help="How to scan it from now on; auto goes by size (`vidsift info` says why)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put an index in order after many small commits: fewer pieces, no space for what was removed."""
    from dataclasses import asdict

    from vidsift.index import compact_index

    done = compact_index(index, None if scan is None else scan.value)
    if as_json:
        say_json(asdict(done))
        return
    before, after = (size(count) for count in done.bytes)
    say(
        f"{index}: {done.clips} clips, {before} -> {after}, {done.fragments[0]} -> {done.fragments[1]} pieces"
    )
    if done.bytes[1] > done.bytes[0]:
        say("what was replaced is kept for an hour, for whoever reads it, and goes with the next compaction")


def remove(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files and folders to forget; nothing on disk is touched."),
    ],
    index: IndexFolder,
    as_json: AsJson = False,
) -> None:
    """Take files and folders out of an index."""
    from vidsift.ingest import remove_paths

    _finish(remove_paths(paths, index), index, as_json)
