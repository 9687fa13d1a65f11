"""`vidsift search` and `vidsift models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsift.cli.output import clock, printable, say, say_json, show_table


def search(
    query: Annotated[str, typer.Argument(help="What should be seen, in a sentence.")],
    index: Annotated[Path, typer.Option("--index", "-i", help="The index folder.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many videos to return.")] = 10,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Clips to rerank by their frames; default: what the model was tuned to."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="One with the index's clip vectors and a compact text tower."),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", "-p", help="Only files, folders or patterns like '*/2024/*' (repeatable)."),
    ] = None,
    after: Annotated[
        float | None, typer.Option(help="Only what is on after this second of its file.")
    ] = None,
    before: Annotated[float | None, typer.Option(help="Only what is on before this second.")] = None,
    shortest: Annotated[float | None, typer.Option(help="Only clips of at least so many seconds.")] = None,
    longest: Annotated[float | None, typer.Option(help="Only clips of at most so many seconds.")] = None,
    having: Annotated[
        list[str] | None, typer.Option("--where", help="KEY=VALUE of the metadata, e.g. codec=hevc.")
    ] = None,
    clips: Annotated[
        bool, typer.Option("--clips", help="List clips, not the best clip of each video.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the videos, and the moments inside them, that answer a sentence."""
    from vidsift.errors import ModelNotFoundError
    from vidsift.index import Filter, Index
    from vidsift.models import load_model

    where = Filter(tuple(path or ()), after, before, shortest, longest, _pairs(having or []))
    opened = Index.open(index)
    try:
        reader = load_model(model or opened.model.name)
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(f"{index}: was built with a model that cannot be loaded: {error}") from error
    result = opened.search(
        query, reader, k=k, candidates=candidates, group_by="clip" if clips else "video", where=where
    )
    if as_json:
        say_json(result.to_dict())
        return
    for number, hit in enumerate(result.hits, 1):
        moment = f"{clock(hit.moment.start)}-{clock(hit.moment.end)}"
        best = clock(hit.moment.best)
        say(f"{number:3d}  {hit.score:6.3f}  {moment:>15}  best {best}  {printable(hit.path)}")
    if not result.hits:
        none = "the index has no clips" if not len(opened) else "no clip fits the filters"
        say(f"nothing found: {none}")


def _pairs(having: list[str]) -> dict[str, str]:
    from vidsift.errors import QueryError

    found = {}
    for text in having:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise QueryError(f"--where {text!r}: is KEY=VALUE, e.g. codec=hevc")
        found[key] = value
    return found


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the bundled models and the named presets with their licence, size and cost."""
    from vidsift.models.listing import model_table

    table = model_table()
    if as_json:
        say_json({"models": table})
        return
    rows = [tuple((row | {"default": "*" if row["default"] else ""}).values()) for row in table]
    show_table(tuple(table[0]), rows)
