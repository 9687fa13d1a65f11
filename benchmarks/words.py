"""What subtitles add to pictures: finding what is said, what that does to ordinary captions, what it costs.

Storyboard videos, the bundled student. In two of three videos something is said: "world" is the storyboard's
own speech, how things move; "talk" are invented lines about people, places and things which are not to be
seen, in words that captions use as well. A spoken query names the person, the deed in another form, and the
place of one line ("Moreau sailing Lisbon"), or is a line of the world's speech, which several videos may say:
any of them is right. Captions are those of the videos. "any word": what fusion would be if one word of a
query were enough.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from _report import spread, write
from vidsift.datasets.storyboard import channels
from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import StorySet, draw_set
from vidsift.datasets.storyboard.vocabulary import COLOURS, KINDS
from vidsift.index import Index, words
from vidsift.index.config import ModelSpec
from vidsift.index.founding import create_files
from vidsift.index.rerank import RerankWeights
from vidsift.index.searcher import refresh_arrays
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, quantise
from vidsift.ingest import index_paths
from vidsift.models import RetrievalModel, load_model
from vidsift.video import SegmentConfig
from vidsift.video.types import Cue

MODEL = "vidsift-tiny"
WAYS: dict[str, tuple[Any, ...]] = {
    "pictures": ("pictures",),
    "words": ("words",),
    "fused": ("pictures", "words"),
}
PEOPLE = """
    Moreau Silva Novak Haddad Okafor Lindgren Tanaka Castillo Weber Rossi Ivanova Kowalski Byrne Dubois
    Costa Yilmaz Petrov Larsen Mbeki Andrade
""".split()  # noqa: SIM905 - a list of words
PLACES = """
    Lisbon Oslo Cairo Lima Quito Hanoi Porto Dakar Riga Turin Malmo Accra Tunis Sofia Graz Leeds Kyoto
    Basel Tampa Bern
""".split()  # noqa: SIM905
# As it is said, and as it is asked.
DEEDS = {
    "sails to": "sailing",
    "writes from": "writing",
    "dances in": "dancing",
    "waits in": "waiting",
    "paints in": "painting",
    "hides in": "hiding",
    "marries in": "marrying",
    "travels to": "travelling",
}
Line = tuple[float, float, str]
Query = tuple[str, set[str]]


def talk(story: StorySet, seed: int) -> tuple[list[list[Line]], list[Query]]:
    """Invented lines of every video, and queries with the names of the videos that are right."""
    rng = np.random.default_rng(seed)
    kinds, colours = [k for names in KINDS.values() for k in names], list(COLOURS)
    lines: list[list[Line]] = []
    queries: list[Query] = []
    seen: set[tuple[str, str, str]] = set()
    for number, video in enumerate(story.videos):
        lines.append([])
        if rng.random() >= channels.HAS_SPEECH:
            continue
        for scene in video.scenes:
            chosen = tuple(str(rng.choice(table)) for table in (PEOPLE, list(DEEDS), PLACES))
            if chosen in seen:
                continue
            seen.add(chosen)  # type: ignore[arg-type]
            person, deed, place = chosen
            thing = f"{rng.choice(colours)} {rng.choice(kinds)}"
            text = f"They say {person} {deed} {place} with a {thing}"
            lines[-1].append((scene.start_seconds, scene.end_seconds, text))
            queries.append((f"{person} {DEEDS[deed]} {place}", {name(number)}))
    return lines, queries


def world(story: StorySet) -> tuple[list[list[Line]], list[Query]]:
    """The storyboard's own speech; right is every video that says the same line."""
    lines = [channels.speech(video) for video in story.videos]
    says: dict[str, set[str]] = {}
    for number, said in enumerate(lines):
        for _, _, text in said:
            says.setdefault(text, set()).add(name(number))
    return lines, sorted(says.items())


def name(number: int) -> str:
    return f"story-{number:05d}.mp4"


def stamp(seconds: float) -> str:
    whole, rest = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{rest:03d}"


def lay_beside(paths: Sequence[Path], lines: Sequence[Sequence[Line]]) -> None:
    for path, said in zip(paths, lines, strict=True):
        beside = path.with_suffix(".srt")
        beside.unlink(missing_ok=True)
        if said:
            cues = (f"{n}\n{stamp(a)} --> {stamp(b)}\n{text}\n\n" for n, (a, b, text) in enumerate(said, 1))
            beside.write_text("".join(cues), encoding="utf-8")


def recalls(index: Index, model: RetrievalModel, queries: Sequence[Query], way: str) -> dict[str, float]:
    """R@1 and R@5 in percent, and the median milliseconds of a query's stages together."""
    found, spent = [], []
    for text, right in queries:
        result = index.search(text, model, k=5, channels=WAYS[way])
        names = [Path(hit.path).name for hit in result.hits]
        found.append(next((rank for rank, one in enumerate(names, 1) if one in right), 99))
        spent.append(sum(result.took_ms.values()))
    ranks = np.array(found)
    return {
        "R@1": 100 * float((ranks <= 1).mean()),
        "R@5": 100 * float((ranks <= 5).mean()),
        "ms": float(np.median(spent)),
    }


@contextmanager
def any_word() -> Any:
    """One word of a query is enough."""
    usual = words.needed
    words.needed = lambda asked: min(asked, 1)
    try:
        yield
    finally:
        words.needed = usual


def quality(seed: int, videos: int, folder: Path, model: RetrievalModel) -> list[dict[str, Any]]:
    """Rows of one seed: subtitles, queries, way, recalls."""
    story = draw_set(seed, videos)
    paths = write_library(story, folder / "videos")
    began = time.perf_counter()
    index_paths(folder / "videos", folder / "index", model)
    silent = time.perf_counter() - began
    captions = [(c.text, {name(int(v))}) for c, v in zip(story.captions, story.video_of, strict=True)][::5]
    rows = []
    for kind, (lines, queries) in (("world", world(story)), ("talk", talk(story, seed))):
        lay_beside(paths, lines)
        began = time.perf_counter()
        report = index_paths(folder / "videos", folder / "index", model)
        renewed = {"files": report.updated, "seconds": time.perf_counter() - began, "all": silent}
        index = Index.open(folder / "index")
        for asked, chosen in (("spoken", queries), ("captions", captions)):
            for way in WAYS:
                rows.append(
                    {"subtitles": kind, "queries": asked, "way": way, "renewed": renewed}
                    | recalls(index, model, chosen, way)
                )
            with any_word():
                rows.append(
                    {"subtitles": kind, "queries": asked, "way": "fused, any word", "renewed": renewed}
                    | recalls(index, model, chosen, "fused")
                )
    return rows


class Asked:
    """Encodes a sentence as a vector that its length seeds: the cost of words does not depend on it."""

    name = "asked"

    def fingerprint(self) -> str:
        return "0" * 16

    def encode_queries(self, texts: list[str]) -> Any:
        found = np.random.default_rng(len(texts[0])).standard_normal((len(texts), 64))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def scale(clips: int, folder: Path, queries: int = 60) -> dict[str, Any]:
    """Milliseconds of the words of a query among so many clips that all say 40 words of a Zipf vocabulary."""
    rng = np.random.default_rng(3)
    spec = ModelSpec("asked", "0" * 16, 64, 2)
    create_files(str(folder), spec, SegmentConfig(), RerankWeights())
    store = Store.open(str(folder), spec.fingerprint)
    vocabulary = np.array([f"w{n:05d}" for n in range(30_000)])
    size, batch = 200, []
    for file in range(clips // size):
        vectors = rng.standard_normal((size, 64)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        picked = vocabulary[np.minimum(rng.zipf(1.2, (size, 40)) - 1, len(vocabulary) - 1)]
        records = []
        for i in range(size):
            at = 10.0 * i
            stored = quantise(vectors[i], vectors[[i, i]], np.ones(2, bool), np.array([at + 2, at + 6]))
            cues = tuple(Cue(at + n, at + n + 1, " ".join(picked[i, 5 * n : 5 * n + 5])) for n in range(8))
            records.append(ClipRecord(f"{file * size + i:032x}", at, at + 10, stored, b"", {}, b"", cues))
        known = FileRecord(f"/films/{file:05d}.mkv", f"{file}", 1, 1, 10.0 * size, "ok", "", size, "inside")
        batch.append((known, records))
        if len(batch) == 50:
            store.replace_files(batch, known=False)
            batch = []
    if batch:
        store.replace_files(batch, known=False)
    began = time.perf_counter()
    store.index_words()
    indexed = time.perf_counter() - began
    config = Index.open(folder).config
    refresh_arrays(str(folder), config, store)
    index, asked = Index.open(folder), Asked()
    spent: dict[str, list[float]] = {"words": [], "all": []}
    for number in range(queries + 5):
        text = " ".join(vocabulary[np.minimum(rng.zipf(1.2, 3) + 9, len(vocabulary) - 1)])
        took = index.search(text, asked, k=10).took_ms
        if number >= 5:
            spent["words"].append(took["words"])
            spent["all"].append(sum(took.values()))
    return {
        "clips": clips,
        "seeds": [3],
        "words ms": spread(quartiles(spent["words"]), 2),
        "p95": round(float(np.percentile(spent["words"], 95)), 2),
        "index seconds": round(indexed, 2),
    }


def quartiles(values: Sequence[float]) -> list[float]:
    return [float(np.percentile(values, p)) for p in (25, 50, 75)]


def first_question(index: Path, channel: str) -> float:
    """Seconds of a whole `vidsift search`, the program's start included."""
    program = Path(sys.executable).with_name("vidsift")
    began = time.perf_counter()
    command = [str(program), "search", "a red ball", "--index", str(index), "--channel", channel]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def gathered(rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per way of asking, its figures over the seeds."""
    named: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        named.setdefault((row["subtitles"], row["queries"], row["way"]), []).append(row)
    return [
        {
            "subtitles": key[0],
            "queries": key[1],
            "way": key[2],
            "seeds": list(seeds),
            **{figure: spread([row[figure] for row in found], 2) for figure in ("R@1", "R@5", "ms")},
        }
        for key, found in named.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[701, 702, 703])
    parser.add_argument("--clips", type=int, nargs="*", default=[10_000, 100_000])
    asked = parser.parse_args()
    model = load_model(MODEL)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in asked.seeds:
            rows += quality(seed, asked.videos, Path(scratch) / str(seed), model)
            print(f"seed {seed} done", file=sys.stderr)
        starts = {
            channel: spread(
                [first_question(Path(scratch) / str(asked.seeds[0]) / "index", channel) for _ in range(3)], 2
            )
            for channel in ("pictures", "both")
        }
        large = [scale(clips, Path(scratch) / f"scale{clips}") for clips in asked.clips]
    table = gathered(rows, asked.seeds)

    def median(subtitles: str, queries: str, way: str, figure: str) -> float:
        found = next(
            r for r in table if (r["subtitles"], r["queries"], r["way"]) == (subtitles, queries, way)
        )
        return float(found[figure]["median"])

    renewed = [row["renewed"] for row in rows]
    headline: dict[str, Any] = {
        "lines asked for, R@1 by pictures / by words / fused": " / ".join(
            f"{median('talk', 'spoken', way, 'R@1'):.1f}" for way in WAYS
        ),
        "captions beside unrelated talk, R@1 by pictures / fused": " / ".join(
            f"{median('talk', 'captions', way, 'R@1'):.1f}" for way in ("pictures", "fused")
        ),
        "captions beside the world's speech, R@1 by pictures / fused": " / ".join(
            f"{median('world', 'captions', way, 'R@1'):.1f}" for way in ("pictures", "fused")
        ),
        "milliseconds of a query by pictures / fused": " / ".join(
            f"{median('talk', 'captions', way, 'ms'):.1f}" for way in ("pictures", "fused")
        ),
        "seconds of the program by pictures / fused": " / ".join(
            f"{starts[channel]['median']:.1f}" for channel in ("pictures", "both")
        ),
        "seconds to index the videos / to renew their words": " / ".join(
            f"{np.median([row[part] for row in renewed]):.1f}" for part in ("all", "seconds")
        ),
    }
    lines = ["| subtitles | queries | way | R@1 | R@5 | ms |", "|---|---|---|---|---|---|"]
    for row in table:
        shown = (
            f"{row[f]['median']:.1f} ({row[f]['min']:.1f} to {row[f]['max']:.1f})"
            for f in ("R@1", "R@5", "ms")
        )
        lines.append(f"| {row['subtitles']} | {row['queries']} | {row['way']} | {' | '.join(shown)} |")
    lines += ["", "Among more clips, all of which say 40 words; queries of three words:", ""]
    lines += [
        "| clips | ms of the words, median (quartiles) | p95 | seconds to index the words |",
        "|---|---|---|---|",
    ]
    for row in large:
        ms, p95, seconds = row["words ms"], row["p95"], row["index seconds"]
        shown_ms = f"{ms['median']:.1f} ({ms['min']:.1f} to {ms['max']:.1f})"
        lines.append(f"| {row['clips']:,} | {shown_ms} | {p95:.1f} | {seconds:.1f} |")
    over = f"{asked.videos} videos; medians over {len(asked.seeds)} seeds (least to greatest)."
    text = f"{__doc__ or ''}\n{over}\n\n" + "\n".join(lines)
    started = [
        {"program": channel, "seeds": [asked.seeds[0]], "seconds": found} for channel, found in starts.items()
    ]
    packages = ("lancedb", "torch", "faiss-cpu", "numpy")
    path = write("words", headline=headline, rows=[*table, *large, *started], packages=packages, text=text)
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
