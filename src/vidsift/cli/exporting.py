"""`vidsift export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsift.cli.output import complain, printable, say, say_json, show_table

if TYPE_CHECKING:
    from vidsift.datasets.pairs import Clips
    from vidsift.models import RetrievalModel


class PrecisionOption(StrEnum):
    """Of the picture tower; sentences are always encoded in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


def export(
    model: Annotated[str, typer.Argument(help="A bundled name, folder, preset or hub id.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder for the model with compiled towers.")],
    precision: Annotated[
        PrecisionOption,
        typer.Option(help="Of the picture tower: bf16 and int8 are faster, and move vectors."),
    ] = PrecisionOption.FP32,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Folders or files whose pictures set the scales of int8; default: drawn ones."),
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Storyboard videos on which both are compared.")] = 100,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compile a model's towers for OpenVINO: faster on a CPU, pictures in bf16 or int8 several times."""
    from vidsift.evaluation.parity import export_model
    from vidsift.models import load_model

    loaded = load_model(model)
    tell = None if quiet else lambda text: complain(f"{text} ...")
    clips = _clips(loaded, calibrate) if calibrate else None
    parity = export_model(loaded, to, precision.value, videos, clips, tell)
    if as_json:
        say_json({"model": str(to), **parity.to_dict()})
        return
    say(f"{printable(str(to))}: {loaded.method}, picture tower in {parity.precision}, sentences in fp32")
    rows = [
        (
            "cosine of pictures with torch's, least / mean",
            f"{parity.pictures[0]:.5f} / {parity.pictures[1]:.5f}",
        ),
        ("cosine of sentences, least / mean", f"{parity.texts[0]:.5f} / {parity.texts[1]:.5f}"),
        (f"R@1 of {parity.captions} captions, torch / compiled", f"{parity.r1[0]:.1f} / {parity.r1[1]:.1f}"),
        ("captions with the same best clip", f"{parity.agree:.1f}%"),
        ("ms per clip, torch / compiled", f"{parity.clip_ms[0]:.2f} / {parity.clip_ms[1]:.2f}"),
        ("ms per sentence, torch / compiled", f"{parity.query_ms[0]:.2f} / {parity.query_ms[1]:.2f}"),
    ]
    show_table(("compared", "found"), rows)


def _clips(model: RetrievalModel, paths: list[Path]) -> Clips:
    """The videos at `paths`, as clips that give pictures.  Raises SourceError when there are none."""
    from vidsift.datasets.corpus import Video
    from vidsift.datasets.pairs import FileClips
    from vidsift.errors import SourceError
    from vidsift.ingest.walk import normalise, walk

    found = walk(normalise(paths), avoid="").candidates
    if not found:
        raise SourceError(f"{', '.join(map(str, paths))}: no video there to calibrate with")
    videos = tuple(Video(id=file.path, path=Path(file.path)) for file in found)
    return FileClips(videos, model.frames_per_clip, model.preprocess.geometry)
