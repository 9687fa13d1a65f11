"""`vidsift search` and `vidsift models`."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidsift.cli.indexing import IndexFolder
from vidsift.cli.output import clock, printable, say, say_json, show_table

if TYPE_CHECKING:
    from vidsift.index import Hit
    from vidsift.index.ranking import GroupBy


class Sureness(StrEnum):
    """Levels of confidence that can be asked for."""

    STRONG = "strong"
    LIKELY = "likely"
    WEAK = "weak"


class ChannelName(StrEnum):
    """What `--channel` takes."""

    PICTURES = "pictures"
    WORDS = "words"
    BOTH = "both"


def search(
    index: IndexFolder,
    query: Annotated[str | None, typer.Argument(help="What should be seen, in a sentence.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture to find videos like.")] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="FILE or FILE@SECONDS of the index, to find others like.")
    ] = None,
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
    channel: Annotated[
        ChannelName, typer.Option("--channel", help="What to search: pictures, words (subtitles) or both.")
    ] = ChannelName.BOTH,
    moments: Annotated[
        bool, typer.Option("--moments", help="List moments, several of a video, not the best of each video.")
    ] = False,
    clips: Annotated[
        bool, typer.Option("--clips", help="List clips as they are stored, near-duplicates too.")
    ] = False,
    level: Annotated[Sureness | None, typer.Option(help="Leave out what is less sure than this.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the videos, and the moments inside them, that answer a sentence, or are like a picture or clip.

    Several things at once: "a dog + a lake - snow", with weights "2 * a dog + a lake".
    """
    from vidsift.errors import ModelNotFoundError, QueryError
    from vidsift.index import Filter, Index, parse_query
    from vidsift.index.fusion import named_channels
    from vidsift.models import load_model
    from vidsift.video.address import absolute
    from vidsift.video.still import read_image

    where = Filter(tuple(path or ()), after, before, shortest, longest, _pairs(having or []))
    if sum(asked is not None for asked in (query, image, like)) != 1:
        raise QueryError("ask with one thing: a sentence, --image or --like")
    channels = named_channels(channel)
    opened = Index.open(index)
    if moments and clips:
        raise QueryError("list --moments or --clips, not both")
    grouped: GroupBy = "clip" if clips else "moment" if moments else "video"
    if like is not None:
        file, at = _file_and_time(like)
        vector = opened.vector(file, at)
        # The clip itself, or its video, is asked for and then left out.
        result = opened.search(
            vector, k=k + 1, candidates=candidates, group_by=grouped, where=where, channels=channels
        )
        own = absolute(file)
        itself = [hit for hit in result.hits if hit.path == own][:1]
        result = replace(result, hits=[hit for hit in result.hits if hit not in itself][:k])
    else:
        try:
            reader = load_model(model or opened.model.name)
        except ModelNotFoundError as error:
            if model is not None:
                raise
            told = f"{index}: was built with a model that cannot be loaded: {error}"
            raise ModelNotFoundError(told) from error
        asked: Any = None if query is None else parse_query(query)
        if image is not None:
            opened.check_model(reader)
            asked = reader.encode_images(read_image(image, reader.preprocess.geometry)[None])[0]
        result = opened.search(
            asked, reader, k=k, candidates=candidates, group_by=grouped, where=where, channels=channels
        )
    relevant = result.relevant
    if level is not None:
        result = replace(result, hits=result.sure_enough(level.value))
    if as_json:
        say_json(result.to_dict() | {"relevant": relevant} | ({} if query is None else {"query": query}))
        return
    if relevant is False and result.hits:
        say("nothing in this index seems to be that; the nearest are:")
    for number, hit in enumerate(result.hits, 1):
        moment = f"{clock(hit.moment.start)}-{clock(hit.moment.end)}"
        best = clock(hit.moment.best)
        sure = "" if hit.confidence is None else f"  {hit.level:>6} {100 * hit.confidence:3.0f}%"
        name = printable(hit.path)
        say(f"{number:3d}  {hit.score:6.3f}{sure}  {moment:>15}  best {best}  {name}{_also(hit)}")
        if hit.cue is not None:
            by = "words" if hit.channels == ("words",) else "pictures and words"
            say(f'{"":32}  by {by}: "{printable(hit.cue.text)}"')
    if not result.hits:
        none = "no clip fits the filters"
        if not len(opened):
            none = "the index has no clips"
        elif channel is ChannelName.WORDS:
            none = "nobody says that"
            if not opened.has_words:
                none = "no subtitles came with its videos, or an older version indexed them (index again)"
        elif level is not None and relevant is not None:
            none = f"no hit is as sure as {level.value!r}"
        say(f"nothing found: {none}")


def _also(hit: Hit) -> str:
    """How many near-duplicates a hit has."""
    return f"  (and {len(hit.alike)} alike)" if hit.alike else ""


def _file_and_time(like: str) -> tuple[str, float | None]:
    """FILE@SECONDS in two; a file whose name has such an end is itself meant."""
    name, separator, seconds = like.rpartition("@")
    if not separator or os.path.exists(like):
        return like, None
    try:
        return name, float(seconds)
    except ValueError:
        return like, None


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
