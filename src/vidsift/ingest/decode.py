"""Decoding beside encoding: worker processes, one file at a time each, with bounded look-ahead."""

from __future__ import annotations

import os
import pickle
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import vidsift
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Done, Event, Failed, Opened, ReadSettings, WordsOnly, read_file
from vidsift.ingest.worker import HEADER, send

SILENCE = 300.0
"""Seconds that a worker may be silent over a file, beside twice the file's own duration."""

_STOP = 0.2


class HungError(Exception):
    """A worker has said nothing for too long."""


def default_workers() -> int:
    """One decoding process per core this process may use, at most 8.

    More than the encoder leaves free is no harm: a worker that is ahead waits for it.
    """
    return min(usable_cores(), 8)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_here(
    works: Sequence[Work], settings: ReadSettings | WordsOnly
) -> Generator[tuple[Work, Event], None, None]:
    """Decode in this process, file after file: no start-up time, no protection against a file that hangs."""
    for work in works:
        for event in read_file(work.file.path, settings):
            yield work, event


class DecodePool:
    """Processes that decode files, so that one which crashes or hangs a decoder costs that file only.

    Processes, not threads: a hung thread cannot be ended, and a crash would take the run with it. They are
    plain children of this process running `vidsift.ingest.worker` (nothing is forked, a script that calls
    us needs no main guard) and end when it ends, however it does. At most `2 * workers` decoded clips wait.
    """

    def __init__(
        self,
        works: Sequence[Work],
        settings: ReadSettings | WordsOnly,
        workers: int,
        silence: float = SILENCE,
        command: Sequence[str] | None = None,
    ) -> None:
        self._settings = settings
        self._silence = silence
        self._command = command
        self._works = iter(works)
        self._next = threading.Lock()
        self._events: queue.Queue[tuple[Work, Event] | BaseException | None] = queue.Queue(2 * workers)
        self._stopped = threading.Event()
        count = min(workers, len(works))
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]

    def events(self) -> Generator[tuple[Work, Event], None, None]:
        """The events of all files; those of one file are in order, files interleave."""
        for thread in self._threads:
            thread.start()
        running = len(self._threads)
        try:
            while running:
                item = self._events.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def _serve(self) -> None:
        decoder = Decoder(self._silence, self._command)
        try:
            while not self._stopped.is_set():
                with self._next:
                    work = next(self._works, None)
                if work is None:
                    break
                for event in decoder.read(work.file.path, self._settings, self._stopped):
                    self._put((work, event))
        except BaseException as error:  # noqa: BLE001 - raised again where the events are taken
            self._put(error)
        finally:
            decoder.close()
            self._put(None)

    def _put(self, item: tuple[Work, Event] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._events.put(item, timeout=_STOP)
                return


class Decoder:
    """One decoding process, started when it is first needed and again after a file that ended it."""

    def __init__(self, silence: float = SILENCE, command: Sequence[str] | None = None) -> None:
        self._silence = silence
        self._command = list(command or worker_command())
        self._worker: _Worker | None = None

    def read(
        self, path: str, settings: ReadSettings | WordsOnly, stopped: threading.Event
    ) -> Iterator[Event]:
        """The events of one file, Done or Failed last; without an end when `stopped` is set."""
        worker = self._worker = self._worker or _Worker(self._command)
        silence, ended = self._silence, False
        try:
            worker.ask(path, settings)
            while not ended and (event := worker.answer(silence, stopped)) is not None:
                if isinstance(event, Opened):
                    silence += 2 * max(event.duration, 0)
                ended = isinstance(event, Done | Failed)
                yield event
        except (HungError, EOFError, OSError) as error:
            yield Failed(worker.end(error))
        finally:
            if not ended:
                # Gone, or still busy with a file that nobody waits for.
                self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def worker_command() -> list[str]:
    """How to start a worker that imports the same vidsift as this process."""
    package = str(Path(vidsift.__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, {package!r}); from vidsift.ingest.worker import main; main()"
    return [sys.executable, "-c", code]


class _Worker:
    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pipesize=1 << 20)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out.fileno(), select.POLLIN | select.POLLHUP)

    def ask(self, path: str, settings: ReadSettings | WordsOnly) -> None:
        send(self._in, (os.fsencode(path), settings))  # type: ignore[arg-type]

    def answer(self, silence: float, stopped: threading.Event) -> Event | None:
        """The next event; None when stopped. HungError after `silence` seconds without a byte."""
        header = self._take(HEADER.size, silence, stopped)
        if header is None:
            return None
        body = self._take(HEADER.unpack(header)[0], silence, stopped)
        event: Any = None if body is None else pickle.loads(body)
        return event  # type: ignore[no-any-return]

    def _take(self, count: int, silence: float, stopped: threading.Event) -> bytearray | None:
        handle, taken = self._out.fileno(), bytearray()
        last = time.monotonic()
        while len(taken) < count:
            if stopped.is_set():
                return None
            if self._poll.poll(_STOP * 1000):
                block = os.read(handle, min(count - len(taken), 1 << 20))
                if not block:
                    raise EOFError
                taken += block
                last = time.monotonic()
            elif time.monotonic() - last > silence:
                raise HungError(f"the decoder gave no sign of life for {silence:.0f} s and was ended")
        return taken

    def end(self, error: Exception) -> str:
        """Make sure that the process is gone; say what became of it."""
        if isinstance(error, HungError):
            self.kill()
            return str(error)
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return f"the decoder crashed (exit code {code})"

    def kill(self) -> None:
        self._process.kill()
        with suppress(OSError):
            self._in.close()
        self._out.close()
        self._process.wait()
