"""A model that is quick, files that are small, and files that only pretend to be videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from vidsift.ingest import IngestReport, index_paths
from vidsift.ingest.reading import Clip, Done, Event, Failed, Opened, ReadSettings
from vidsift.models.base import MethodConfig, SearchWeights
from vidsift.models.features import TextFeatures

WIDTH, FRAMES = 16, 3


class FakeModel(torch.nn.Module):
    """Vectors that depend on every pixel; counts the clips it has seen."""

    def __init__(self, name: str = "fake", fingerprint: str = "f" * 16) -> None:
        super().__init__()
        self.name, self._fingerprint = name, fingerprint
        self.width, self.frames_per_clip = WIDTH, FRAMES
        self.device = torch.device("cpu")
        self.index_parts = frozenset({"coarse", "frames"})
        self.preprocess = SimpleNamespace(geometry=SimpleNamespace(size=4, mode="crop"))
        self.search, self.config = SearchWeights(), MethodConfig()
        self.background = tuple(f"something {number}" for number in range(20))
        self.clips = 0

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[len(text), int(text.split()[-1])] for text in texts])
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def encode_text(self, ids: torch.Tensor, mask: torch.Tensor) -> TextFeatures:
        words = torch.sin(ids[..., None] * torch.arange(1, WIDTH + 1))
        return TextFeatures(torch.nn.functional.normalize(words.sum(1), dim=-1), words, mask)

    def query_vectors(self, text: TextFeatures) -> torch.Tensor:
        return text.sentence

    def fingerprint(self) -> str:
        return self._fingerprint

    def encode_video(self, frames: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
        self.clips += len(frames)
        flat = frames.flatten(2).double()
        basis = torch.sin(torch.arange(flat.shape[-1] * WIDTH).double()).view(-1, WIDTH)
        vectors = torch.nn.functional.normalize(flat @ basis, dim=-1).float()
        return SimpleNamespace(
            coarse=torch.nn.functional.normalize(vectors.mean(1), dim=-1), frames=vectors, mask=mask
        )


def pretend_read(path: str, settings: ReadSettings) -> Iterator[Event]:
    """Read a file of text: "WORD N", N clips made from WORD; "partial WORD N"; anything else fails."""
    words = Path(path).read_text().split()
    problem = "cut short; kept what came before" if words[0] == "partial" else None
    words = words[1:] if problem else words
    if len(words) != 2:
        yield Failed("is not a video")
        return
    duration = 10.0 * int(words[1])
    yield Opened(duration)
    for i in range(int(words[1])):
        rng = np.random.default_rng([*words[0].encode(), i])
        size = settings.geometry.size
        pixels = rng.integers(0, 256, (settings.frames_per_clip, 3, size, size), dtype=np.uint8)
        times = 10.0 * i + np.arange(settings.frames_per_clip, dtype=np.float64)
        mask = np.ones(settings.frames_per_clip, bool)
        yield Clip(10.0 * i, 10.0 * i + 10, pixels, times, mask, f"jpeg {words[0]} {i}".encode())
    yield Done(duration, problem, {"word": words[0]})


def write_video(path: Path, seed: int, frames: int = 12, side: int = 64) -> None:
    """A real H.264 mp4 of moving noise, 10 frames a second."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), np.ones((8, 8, 1)))
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "threads": "1"}
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, i * 2, axis=1).astype(np.uint8), "rgb24")
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def other_model() -> FakeModel:
    return FakeModel("other", "0" * 16)


@pytest.fixture
def video() -> Callable[..., None]:
    return write_video


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files stand for videos: what is tested is the bookkeeping."""
    monkeypatch.setattr("vidsift.ingest.decode.read_file", pretend_read)


@pytest.fixture
def place(tmp_path: Path, pretend: None, model: FakeModel) -> SimpleNamespace:
    """A library folder, an index folder, `put(name, text)` and `sync()`."""
    lib, index = tmp_path / "lib", tmp_path / "index"
    lib.mkdir()
    clock = iter(range(10**9, 10**12, 10**6))

    def put(name: str | bytes, text: str) -> str:
        path = os.path.join(lib, os.fsdecode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)
        stamp = next(clock) * 1000
        os.utime(path, ns=(stamp, stamp))
        return path

    def sync(*paths: str | Path, **settings: object) -> IngestReport:
        settings = {"model": model, "workers": 0, **settings}
        return index_paths(list(paths) or [lib], index, **settings)  # type: ignore[arg-type]

    return SimpleNamespace(lib=lib, index=index, put=put, sync=sync, model=model)
