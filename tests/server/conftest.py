"""A real service over a small storyboard library, started as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_library
from vidsift.ingest import index_paths

VIDEOS = 14
STORY = load_split("test", videos=VIDEOS)
LINE = "The <b>captain</b> sails for Lisbon"


class Service:
    """A running `vidsift serve`; `ask` is an HTTP client for it."""

    def __init__(self, index: Path, *words: str) -> None:
        self.index = index
        program = Path(sys.executable).with_name("vidsift")
        self.log = (index.parent / f"log-{time.monotonic_ns()}.txt").open("w+")
        self.process = subprocess.Popen(
            [program, "serve", "--index", index, "--port", "0", "-v", *words],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("vidsift at "):
            self.process.kill()
            raise RuntimeError(f"the service did not start: {line}{self.said()}")
        self.url = line.split()[2].rstrip("/")
        self.ask = httpx.Client(base_url=self.url, timeout=60)

    def said(self) -> str:
        """What it wrote to stderr."""
        return Path(self.log.name).read_text()

    def says(self, text: str, seconds: float = 10) -> bool:
        """Whether it writes `text` to stderr; a line about a request may come after its answer."""
        until = time.monotonic() + seconds
        while text not in self.said():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def get(self, path: str, code: int = 200, **options: Any) -> Any:
        """JSON of an answer with the expected code."""
        answer = self.ask.get(f"/api/v1{path}", **options)
        assert answer.status_code == code, answer.text
        return answer.json()

    def post(self, path: str, body: Any, code: int = 200, **options: Any) -> Any:
        """JSON of an answer with the expected code."""
        answer = self.ask.post(f"/api/v1{path}", json=body, **options)
        assert answer.status_code == code, answer.text
        return answer.json() if answer.content else None

    def finished(self, job: str, seconds: float = 120) -> dict[str, Any]:
        """The job once it is finished."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found: dict[str, Any] = self.get(f"/jobs/{job}")
            if found["state"] not in ("queued", "running"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"the job is still {found['state']}: {self.said()}")

    def stop(self, how: int = signal.SIGINT) -> int:
        """End it; returns the exit code."""
        self.ask.close()
        self.process.send_signal(how)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


@pytest.fixture(scope="session")
def story() -> Any:
    return STORY


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Files and their index, for tests that change nothing; in the third video something is said."""
    folder = tmp_path_factory.mktemp("served")
    paths = write_library(STORY, folder / "videos")
    paths[2].with_suffix(".srt").write_text(f"1\n00:00:02,000 --> 00:00:03,500\n{LINE}\n\n")
    index_paths(folder / "videos", folder / "index", "vidsift-tiny")
    return SimpleNamespace(folder=folder, index=folder / "index", videos=folder / "videos", paths=paths)


@pytest.fixture(scope="session")
def service(library: SimpleNamespace) -> Iterator[Service]:
    """For tests that change nothing."""
    running = Service(library.index, "--rate", "10000")
    yield running
    assert running.stop() == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """files of the story, words -> a service over a library of its own."""
    running: list[Service] = []

    def make(files: int = 3, *words: str) -> Service:
        index = tmp_path / "index"
        if not index.exists():
            write_library(load_split("test", videos=files), tmp_path / "videos")
            index_paths(tmp_path / "videos", index, "vidsift-tiny")
        running.append(Service(index, *words))
        return running[-1]

    yield make
    for one in running:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)
