"""`vidsift convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsift.cli.output import printable, say, say_json


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint file.")],
    family: Annotated[
        str,
        typer.Option("--from", help="clip4clip, xclip, ts2net, xpool, teachclip, eercf, ce or openai-clip."),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder for the converted model.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder with tokenizer.json, or OpenAI's bpe_simple_vocab_16e6.txt.gz; "
            "default: beside the checkpoint, else the local cache."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames per clip, where the checkpoint does not fix it; 12.")
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="Treat padding as the official code does, defects included.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Turn a published checkpoint into a model folder, strictly, and say what became of every tensor."""
    from vidsift.convert.program import convert_file

    report = convert_file(checkpoint, family, to, tokenizer=tokenizer, frames=frames, legacy=legacy)
    if as_json:
        say_json({"checkpoint": str(checkpoint), "model": str(to), **report.to_dict()})
        return
    say(
        f"{report.method}: {report.frames_per_clip} frames, {report.max_words} words, in {printable(str(to))}"
    )
    say(f"mapped: {len(report.mapped)} tensors")
    say(f"skipped: {len(report.skipped)} tensors")
    for key, why in report.skipped:
        say(printable(f"  {key}: {why}"))
    for note in report.notes:
        say(printable(f"note: {note}"))
