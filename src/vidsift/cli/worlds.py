"""`vidsift storyboard` and `vidsift demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsift.cli.output import printable, progress_bar, say, say_json

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def storyboard(
    out: Annotated[Path, typer.Option("--out", help="Folder for the videos, captions.jsonl and the sheet.")],
    videos: Annotated[int, typer.Option(min=1, help="How many videos.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 200,
    channels: Annotated[
        bool, typer.Option("--channels", help="With sound, subtitles and writing in the pictures.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Render a library of procedural captioned videos as real mp4 files."""
    from vidsift.datasets.storyboard.library import CAPTIONS_FILE, SHEET_FILE, write_library
    from vidsift.datasets.storyboard.splits import draw_set

    story = draw_set(seed, videos)
    with progress_bar("rendering", "videos", quiet) as advance:
        paths = write_library(story, out, lambda done, total: advance(done, total, ""), channels)
    if as_json:
        where = str(out.resolve())
        say_json({"videos": len(paths), "captions": len(story.captions), "out": where, "seed": seed})
    else:
        say(f"{len(paths)} videos in {out}, {len(story.captions)} captions in {out / CAPTIONS_FILE}")
        say(f"a contact sheet to look at: {out / SHEET_FILE}")


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the library and its index go.")] = Path("demo"),
    videos: Annotated[int, typer.Option(min=10, help="How many videos to render.")] = 200,
    queries: Annotated[int, typer.Option(min=1, help="How many held-out captions to ask.")] = 60,
    serve: Annotated[bool, typer.Option("--serve", help="Then open the page on the library.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8765,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Render a small library, index it with the bundled model, search it, and say how well that went."""
    from vidsift.demo import run_demo

    if serve and as_json:
        raise typer.BadParameter("--json prints one document and ends; --serve goes on: take one of them")
    report = run_demo(folder.resolve(), videos, queries, lambda title, unit: progress_bar(title, unit, quiet))
    if as_json:
        say_json(report.to_dict())
    else:
        for line in report.lines():
            say(printable(line))
    if serve:
        from vidsift.cli.serving import serve_index
        from vidsift.server.settings import ServerSettings

        serve_index(ServerSettings(report.index, port=port))
