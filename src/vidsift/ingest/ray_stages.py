"""What runs on the machines of a Ray cluster: files read in tasks, their clips encoded on actors."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import vidsift
from vidsift.errors import EngineError, VidsiftError
from vidsift.ingest.decode import Decoder
from vidsift.ingest.reading import Clip, ReadSettings

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel

BATCH_BYTES = 1 << 20
"""Events leave a reading task in tables of about this size."""

_decoder = Decoder()  # kept from task to task; its process starts with the first file
_never = threading.Event()


@dataclass(frozen=True)
class Job:
    """What every worker has to know: how files are read, the model by a name that `load_model` takes, its
    fingerprint, where to encode (as torch names it; None takes a GPU that is there), and our version."""

    settings: ReadSettings
    model: str
    fingerprint: str
    device: str | None
    version: str = vidsift.__version__


@dataclass(frozen=True)
class Unseen:
    """This machine does not have the file."""

    machine: str
    reason: str


@dataclass(frozen=True)
class Trouble:
    """This machine cannot do its part, whatever the file."""

    machine: str
    reason: str


def pack(rows: list[tuple[int, int, str, Any]]) -> pa.Table:
    """Events as a table: number of the file, of the event in it, the file's fingerprint, the event itself.

    Pickled, because nothing but our own code on the other side, of the same version, reads them.
    """
    files, numbers, fingerprints, events = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "file": pa.array(files, pa.int64()),
            "number": pa.array(numbers, pa.int64()),
            "fingerprint": pa.array(fingerprints, pa.string()),
            "event": pa.array([pickle.dumps(event, protocol=5) for event in events], pa.large_binary()),
        }
    )


def unpack(table: pa.Table) -> Iterator[tuple[int, int, str, Any]]:
    """The rows that were packed, one after the other."""
    columns = [table[name].combine_chunks() for name in ("file", "number", "fingerprint", "event")]
    for file, number, fingerprint, event in zip(*columns, strict=True):
        yield file.as_py(), number.as_py(), fingerprint.as_py(), pickle.loads(event.as_buffer())


def read_group(group: pa.Table, job: Job) -> Iterator[pa.Table]:
    """A task: read the files of a table (file, path, fingerprint) one after the other.

    The same files give the same events in the same tables, so that Ray can go on where a lost worker was.
    """
    rows: list[tuple[int, int, str, Any]] = []
    held = 0
    for named in group.to_pylist():
        path = os.fsdecode(named["path"])
        for number, event in enumerate(_read(path, job)):
            rows.append((named["file"], number, named["fingerprint"], event))
            held += event.pixels.nbytes if isinstance(event, Clip) else 0
            if held >= BATCH_BYTES:
                yield pack(rows)
                rows, held = [], 0
    yield pack(rows)


def _read(path: str, job: Job) -> Iterator[Any]:
    try:
        _check_version(job)
        os.stat(path)
        yield from _decoder.read(path, job.settings, _never)
    except OSError as error:
        yield Unseen(socket.gethostname(), error.strerror or str(error))
    except Exception as error:  # noqa: BLE001 - said where the run ends
        yield _trouble(error)


class Encoder:
    """An actor: turns the clips among events into records, with a model that it loads once."""

    def __init__(self, job: Job, threads: int | None) -> None:
        self._job = job
        self._model: RetrievalModel | None = None
        self._lacking: Trouble | None = None
        try:
            self._model = _load(job, threads)
        except Exception as error:  # noqa: BLE001 - said with the first clip: Ray would only start it again
            self._lacking = _trouble(error)

    def __call__(self, events: pa.Table) -> pa.Table:
        return pack(
            [
                (file, number, fingerprint, self._encoded(event, fingerprint))
                for file, number, fingerprint, event in unpack(events)
            ]
        )

    def _encoded(self, event: Any, fingerprint: str) -> Any:
        if self._model is None:
            return self._lacking
        if not isinstance(event, Clip):
            return event
        from vidsift.ingest.encode import encode_timed

        try:
            return encode_timed(self._model, event, fingerprint, self._job.settings.segmentation)
        except Exception as error:  # noqa: BLE001 - said where the run ends
            return _trouble(error)


def _load(job: Job, threads: int | None) -> RetrievalModel:
    import torch

    from vidsift.models import best_device, load_model

    _check_version(job)
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(job.model, job.device or best_device())
    if model.fingerprint() != job.fingerprint:
        raise EngineError(
            f"the model {job.model!r} has other weights here; give all machines the same folder"
        )
    return model


def _check_version(job: Job) -> None:
    if vidsift.__version__ != job.version:
        raise EngineError(
            f"has vidsift {vidsift.__version__}, the indexer {job.version}; install the same on all machines"
        )


def _trouble(error: Exception) -> Trouble:
    told = isinstance(error, VidsiftError)
    return Trouble(socket.gethostname(), str(error) if told else "".join(traceback.format_exception(error)))
