"""What experts say of a data set, kept on disk: one store per expert, filled once and refused when stale."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError, ModelFormatError
from vidsift.experts.appearance import Appearance
from vidsift.experts.base import ExpertSource
from vidsift.experts.opening import Means, open_expert
from vidsift.features.rowstore import Array, Rows, RowStore
from vidsift.models import RetrievalModel
from vidsift.models.experts import Expert, ExpertMethod
from vidsift.video import Geometry, VideoError

Progress = Callable[[str, int, int], None]
_BLOCK = 16


def describe(source: ExpertSource, spec: str, clusters: int, width: int) -> Expert:
    """The entry of a model's configuration for an expert.

    spec: the name by which it can be opened again.  clusters: of the NetVLAD that pools an expert of several
    vectors.  width: of its embedding (MoEE).
    """
    return Expert(source.name, source.dim, clusters if source.tokens else 0, width, spec)


def extract_expert(
    source: ExpertSource,
    pairs: PairSet,
    folder: Path,
    on_bad: str = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> RowStore:
    """Run an expert once over every clip; an interrupted extraction goes on.

    Rows: `feature` float16 [dim] or [tokens, dim], `mask` bool, scalar or [tokens]: False where the expert is
    not available. A clip that cannot be read raises DataError, or counts so when on_bad is `skip`.
    """
    shape = (source.tokens,) if source.tokens else ()
    arrays = {"feature": Array((*shape, source.dim), "f2"), "mask": Array(shape, "?")}
    # In how many frames the student would see the clips is no matter of the expert's.
    seen = pairs.clips.view(1, Geometry(64))
    identity = {"expert": source.identity(pairs.clips), "data": seen.identity()}
    store = RowStore(folder, len(pairs.clips), arrays, identity)

    def make(numbers: NDArray[np.int64]) -> Rows:
        feature = np.zeros((len(numbers), *arrays["feature"].shape), np.float16)
        mask = np.zeros((len(numbers), *shape), bool)
        for row, number in enumerate(numbers.tolist()):
            try:
                found = source.extract(pairs.clips, number)
            except VideoError as error:
                if on_bad == "stop":
                    raise DataError(f"{error}; mend it, or set data.on_bad=skip to leave it out") from error
                continue
            if found is None:
                continue
            if not np.isfinite(found).all():
                raise DataError(f"{pairs.clips.name(number)}: expert {source.name} gives numbers not finite")
            if source.tokens:
                feature[row, : len(found)], mask[row, : len(found)] = found, True
            else:
                feature[row], mask[row] = found, True
        return {"feature": feature, "mask": mask}

    store.fill(make, _BLOCK, progress)
    return store


def store_name(folder: Path, pairs: PairSet, name: str) -> Path:
    """Where an expert's store lies: named by the set and by what the expert is called."""
    return folder / f"{pairs.shelf}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"


Sources = list[tuple[Expert, ExpertSource]]


def open_stores(
    sources: Sources,
    pairs: PairSet,
    folder: Path,
    on_bad: str = "stop",
    progress: Progress | None = None,
) -> dict[str, RowStore]:
    """The stores of all experts that a model sees clips by (`open_sources`), made where something is missing.

    Raises DataError for clips that cannot be read and for stale stores.
    """
    found = {}
    for expert, source in sources:
        report: Any = None
        if progress is not None:
            title = f"{expert.name} of {pairs.name}"
            report = lambda done, rows, title=title: progress(title, done, rows)  # noqa: E731
        frames = f"-{source.frames}f" if isinstance(source, Appearance) else ""
        path = store_name(folder, pairs, expert.source + frames)
        found[expert.name] = extract_expert(source, pairs, path, on_bad, report)
    return found


def open_sources(model: RetrievalModel) -> Sources:
    """All experts that a model sees clips by; none for a model that reads pictures itself.

    Raises ModelFormatError for experts that were extracted by someone else, or differ from the model's.
    """
    if not isinstance(model, ExpertMethod):
        return []
    found = []
    for expert in model.config.experts:
        if not expert.source:
            raise ModelFormatError(
                f"{model.name}: its expert {expert.name!r} was extracted elsewhere and cannot be run here"
            )
        source = open_expert(expert.source, Means("", model.frames_per_clip, str(model.device)))
        if (source.dim, bool(source.tokens)) != (expert.dim, bool(expert.clusters)):
            raise ModelFormatError(
                f"{model.name}: expert {expert.source!r} gives {source.dim} numbers here, the model takes "
                f"{expert.dim}"
            )
        found.append((expert, source))
    return found
