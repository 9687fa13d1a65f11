"""Indexing jobs: one at a time, each in its own process, remembered beside the index across restarts."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from vidsift.errors import QueryError
from vidsift.index.config import read_config, write_atomically
from vidsift.index.remote import at_hand, locate
from vidsift.index.types import is_under
from vidsift.server.schema import Job, Progress

log = logging.getLogger(__name__)

FOLDER = "jobs"
"""In the index folder (or, for an index in object storage, in the cache), a file per job."""

KEPT = 200
_END = 20.0


class Jobs:
    """The queue. A job that ran when the service died runs again: indexing goes on where it stopped."""

    def __init__(self, index: str | Path, allowed: Callable[[], list[str]]) -> None:
        self._index = locate(index)
        self._folder = os.path.join(at_hand(self._index, read_config(self._index).index_id), FOLDER)
        self._allowed = allowed
        self._jobs: dict[str, Job] = {}
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._process: tuple[str, subprocess.Popen[str]] | None = None
        self._closing = False
        os.makedirs(self._folder, exist_ok=True)
        self._remember()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def start(self, paths: list[str]) -> Job:
        """Queue a job.  Raises QueryError for a path that may not be indexed or is not there."""
        for path in paths:
            self._check(path)
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        job = Job(id=uuid4().hex, paths=paths, state="queued", created=created, progress=Progress())
        with self._changed:
            self._jobs[job.id] = job
            self._keep(job)
            self._forget_old()
        self._waiting.put(job.id)
        return job

    def _check(self, path: str) -> None:
        if "\x00" in path or not os.path.isabs(path):
            raise QueryError(f"{path!r}: give an absolute path on the machine of the service")
        real = os.path.realpath(path)
        if not any(is_under(real, os.path.realpath(root)) for root in self._allowed()):
            raise QueryError(
                f"{path}: is outside the folders that this service may index; --library allows another"
            )
        if not os.path.exists(real):
            raise QueryError(f"{path}: no such file or folder")

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with self._changed:
            return self._jobs.get(job_id)

    def wait(self, job_id: str, seen: Job | None, seconds: float) -> Job | None:
        """The job once it differs from `seen`, or as it is after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs.get(job_id) != seen, seconds)
            return self._jobs.get(job_id)

    def cancel(self, job_id: str) -> Job | None:
        """Take a job out of the queue, or end it: what was finished stays in the index."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            if job.state == "queued":
                self._set(job.model_copy(update={"state": "cancelled"}))
            elif job.state == "running" and self._process is not None and self._process[0] == job_id:
                self._hang_up(self._process[1])
            return self._jobs[job_id]

    def open(self) -> int:
        """Jobs that are not finished."""
        with self._changed:
            return sum(job.state in ("queued", "running") for job in self._jobs.values())

    def close(self) -> None:
        """End the running job (it goes on at the next start) and the queue."""
        self._closing = True
        self._waiting.put(None)
        with self._changed:
            process = self._process
        if process is not None:
            self._hang_up(process[1])
        self._thread.join(_END)

    @staticmethod
    def _hang_up(process: subprocess.Popen[str]) -> None:
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def _work(self) -> None:
        while (job_id := self._waiting.get()) is not None:
            job = self.get(job_id)
            if job is not None and job.state == "queued" and not self._closing:
                try:
                    self._run(job)
                except Exception as error:
                    log.exception("job %s broke", job_id)
                    self._set(job.model_copy(update={"state": "failed", "error": repr(error)}))

    def _run(self, job: Job) -> None:
        package = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {package!r}); from vidsift.server.worker import main; main()"
        command = [sys.executable, "-c", code, self._index, json.dumps(job.paths)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            with self._changed:
                self._process = (job.id, process)
            job = job.model_copy(update={"state": "running"})
            self._set(job)
            assert process.stdout is not None
            for line in process.stdout:
                said: dict[str, Any] = json.loads(line)
                if "progress" in said:
                    known = {k: v for k, v in said["progress"].items() if k in Progress.model_fields}
                    job = job.model_copy(update={"progress": Progress(**known)})
                    self._tell(job)
                elif "report" in said:
                    job = job.model_copy(update={"state": "done", "report": said["report"]})
                elif "error" in said:
                    job = job.model_copy(update={"state": "failed", "error": said["error"]})
                elif "cancelled" in said:
                    job = job.model_copy(update={"state": "queued" if self._closing else "cancelled"})
            code_ = process.wait()
        with self._changed:
            self._process = None
        if job.state == "running":
            job = job.model_copy(update={"state": "failed", "error": f"the indexer ended with code {code_}"})
        self._set(job)

    def _set(self, job: Job) -> None:
        with self._changed:
            self._jobs[job.id] = job
            self._keep(job)
            self._changed.notify_all()

    def _tell(self, job: Job) -> None:
        with self._changed:
            self._jobs[job.id] = job
            self._changed.notify_all()

    def _keep(self, job: Job) -> None:
        write_atomically(os.path.join(self._folder, f"{job.id}.json"), job.model_dump_json().encode())

    def _remember(self) -> None:
        for name in os.listdir(self._folder):
            if not name.endswith(".json"):
                continue  # what a killed service was about to put in place
            path = os.path.join(self._folder, name)
            try:
                job = Job.model_validate_json(Path(path).read_bytes())
            except (OSError, ValueError) as error:
                log.warning("%s: is not a job and is passed over (%s)", path, error)
                continue
            if job.state in ("queued", "running"):
                job = job.model_copy(update={"state": "queued"})
            self._jobs[job.id] = job
        for job in sorted(self._jobs.values(), key=lambda job: job.created):
            if job.state == "queued":
                self._waiting.put(job.id)

    def _forget_old(self) -> None:
        finished = [job for job in self._jobs.values() if job.state not in ("queued", "running")]
        for job in sorted(finished, key=lambda job: job.created)[:-KEPT]:
            del self._jobs[job.id]
            with suppress(FileNotFoundError):
                os.remove(os.path.join(self._folder, f"{job.id}.json"))
