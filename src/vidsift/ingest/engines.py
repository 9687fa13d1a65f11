"""The engines that read and encode what a run has to do: this machine by itself, or many by Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from vidsift.ingest.decode import DecodePool, default_workers, read_here
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import ReadSettings
from vidsift.ingest.results import Results

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel

EngineName = Literal["local", "ray"]

Engine = Callable[[Sequence[Work], ReadSettings, "RetrievalModel", str], Results]
"""(files, settings, the index's model and its fingerprint) -> what became of the files."""


def choose_engine(
    name: EngineName,
    address: str | None,
    model: RetrievalModel | str | None,
    workers: int | None,
    device: str | None,
) -> Engine:
    """The engine of this name, for the arguments of `index_paths`.

    Raises ValueError for arguments that do not go together, EngineError when Ray is not installed.
    """
    if name not in get_args(EngineName):
        raise ValueError(f"engine must be one of {', '.join(get_args(EngineName))}, got {name!r}")
    if name == "local":
        if address is not None:
            raise ValueError(f"address {address!r} is for engine 'ray', not for engine 'local'")
        return partial(_read_locally, default_workers() if workers is None else workers)
    from vidsift.ingest import ray_engine

    ray_engine.check_installed()
    if workers == 0:
        raise ValueError("engine 'ray' reads in processes of its own: workers must be 1 or more")
    if not (model is None or isinstance(model, str)):
        raise ValueError("engine 'ray' needs the model's name or folder: every worker loads it by itself")
    return partial(_read_by_ray, address, workers, device)


def _read_locally(
    workers: int, works: Sequence[Work], settings: ReadSettings, model: RetrievalModel, fingerprint: str
) -> Results:
    from vidsift.ingest.batching import encode_batched
    from vidsift.ingest.encode import encode_here

    events = DecodePool(works, settings, workers).events() if workers else read_here(works, settings)
    encode = encode_batched if model.device.type == "cuda" else encode_here
    return encode(events, model, settings.segmentation)


def _read_by_ray(
    address: str | None,
    workers: int | None,
    device: str | None,
    works: Sequence[Work],
    settings: ReadSettings,
    model: RetrievalModel,
    fingerprint: str,
) -> Results:
    from vidsift.ingest import ray_engine
    from vidsift.ingest.ray_stages import Job

    job = Job(settings, model.name, fingerprint, device)
    return ray_engine.results(works, job, address, workers)
