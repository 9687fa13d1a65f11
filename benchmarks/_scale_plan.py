"""From the fitted laws to a plan: shards, machines, memory, disk, latency and what drives the price."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from _report import REPORTS
from _scale_theory import Floats, Law, Scans, fan_out, percentiles
from vidsift.index.shards import picks_of

PICTURES = 12
GIB = 2**30
MOST_SIMULATED = 512


@dataclass(frozen=True)
class Wishes:
    """What a plan is made for, and what is assumed because it is not measured here.

    copies: of every shard.  per_s: queries.  load: share of the time that a core may work.  target_ms: for
    what one shard does.  fill: share of a machine's memory that arrays may take.  network_ms: there and back,
    a query and its answer.  thumbnail: bytes.  picked: by codes, in an index that is tuned to so many.
    """

    node_gib: float
    node_cores: int
    copies: int
    per_s: float
    load: float
    target_ms: float
    fill: float
    network_ms: float
    thumbnail: int
    picked: int


@dataclass(frozen=True)
class Laws:
    """Everything that was fitted.

    scans, rerank: milliseconds.  build: seconds.  bytes: of the arrays, by kind.  anonymous: bytes of a
    shard's process.  table: what `_scale_measure.table` says.
    """

    scans: Scans
    rerank: Law
    build: Law
    bytes: dict[str, Law]
    anonymous: Law
    table: dict[str, float]

    def shard_ms(self, clips: float, picked: int | None) -> float:
        """The most that a shard of so many clips does for a query: the scan, and the rerank of a hundred."""
        return self.scan_ms(clips, picked) + self.rerank(clips)

    def scan_ms(self, clips: float, picked: int | None) -> float:
        """The scan alone.  picked: by codes; None scores every clip."""
        return self.scans.exact(clips) if picked is None else self.scans.coded(clips, min(picked, clips))

    def resident(self, clips: float, coded: bool) -> float:
        """Bytes that have to be in memory for it: what is scanned and what is scored."""
        return self.bytes["vectors"](clips) + (self.bytes["codes"](clips) if coded else 0.0)

    def on_disk(self, clips: float) -> float:
        """Bytes of all arrays."""
        return sum(law(clips) for law in self.bytes.values())


def usual(clips: float) -> int:
    """How many clips the codes pick for an answer of a hundred in an index of so many."""
    from vidsift.index.scan import PART, RESCORED, TIMES, TUNED_FOR

    return max(RESCORED, TIMES * TUNED_FOR, int(clips) // PART)


def plan(
    laws: Laws, picked: int | None, clips: int, wishes: Wishes, services: Floats, text_ms: float, seed: int
) -> dict[str, Any]:
    """The fewest machines that hold an index, are as fast as wished and answer as much as wished.

    picked: by the codes of the whole index; a shard picks its share and half as many more
    (`vidsift.index.shards.picks_of`). None for the exact scan.
    services: seconds of single answers as measured, of which only the shape counts: a shard of another size
    is taken to be slow as often and as much.
    """
    # Over a queue that is half full the mean matters: every query works on every shard.
    skew = float(services.mean() / np.median(services))
    limit = min(wishes.target_ms, 1e3 * wishes.load * wishes.copies / wishes.per_s / skew)

    def one_of(count: int) -> float:
        part = clips / count
        split = picked is not None and count > 1
        return laws.shard_ms(part, picks_of(picked or 0, 100, int(part), clips) if split else picked)

    shards = _fewest(lambda count: one_of(count) <= limit)
    resident = laws.resident(clips, picked is not None)
    usable = wishes.fill * wishes.node_gib * GIB
    nodes = max(
        math.ceil(shards / wishes.node_cores),
        math.ceil((resident + shards * laws.anonymous(0)) / usable),
    )
    shards = nodes * wishes.node_cores
    own = one_of(shards)
    load = wishes.per_s * own * skew / 1e3 / wishes.copies
    simulated = min(shards, MOST_SIMULATED)
    # Two rounds: the scan, and the rerank where the short list is.
    rest = text_ms + 2 * wishes.network_ms
    latency = {}
    sent = 1.0
    for hedged in (False, True):
        rng = np.random.default_rng(seed)
        shape = services / float(np.median(services)) * own
        found, sent = fan_out(shape, simulated, load, rng, wishes.copies, hedged, queries=1_000)
        latency[hedged] = [rest + p for p in percentiles(found.max(0))]
    return {
        "clips": clips,
        "scan": "exact" if picked is None else f"coded, {picked:,} picked",
        "seeds": [seed],
        "shards": shards,
        "nodes": nodes * wishes.copies,
        "load": round(load, 3),
        "shard_ms": round(own, 2),
        "latency_ms": [round(p, 1) for p in latency[False]],
        "hedged_ms": [round(p, 1) for p in latency[True]],
        "hedging_costs": round(sent - 1, 3),
        "memory_gib": round(resident / GIB, 1),
        "arrays_gib": round(laws.on_disk(clips) / GIB, 1),
        "core_ms_per_query": round(shards * own * skew, 1),
    }


def _fewest(enough: Callable[[int], bool]) -> int:
    """The least number for which something holds that holds for all greater ones."""
    high = 1
    while not enough(high):
        high *= 2
        if high > 1 << 24:
            raise SystemExit("no number of shards is fast enough: raise --target-ms or lower --per-s")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def report(name: str) -> dict[str, Any]:
    """Another program's report."""
    path = REPORTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def text_tower_ms() -> float:
    """A sentence of 16 tokens through the compiled text tower of a ViT-B/32, by encode.py's report."""
    rows = report("encode")["rows"]
    (row,) = (r for r in rows if (r["shape"], r["runtime"]) == ("ViT-B/32", "OpenVINO fp32"))
    return float(row["sentence_ms"]["median"])


def indexing() -> list[dict[str, Any]]:
    """Seconds of a core until a clip is in the table, by kind of file and runtime of the towers.

    Reading and the rest are of ingest.py's report, pictures of encode.py's.
    """
    towers = [r for r in report("encode")["rows"] if r["shape"] == "ViT-B/32"]
    return [
        {
            "library": f"{file['size']} {file['seconds']} s",
            "towers": tower["runtime"],
            "core_s_per_clip": file["read_cpu_s_per_file"]
            + file["rest_cpu_s_per_file"]
            + PICTURES / tower["pictures_per_s"]["median"],
        }
        for file in report("ingest")["rows"]
        for tower in towers
    ]


def drivers(laws: Laws, clips: int, wishes: Wishes) -> dict[str, Any]:
    """What the price of an index depends on, besides the machines that answer."""
    table = laws.table
    return {
        "clips": clips,
        "seeds": [2],
        "table_gib": round(clips * (table["bytes_per_clip"] + wishes.thumbnail) / GIB, 1),
        "arrays_gib": round(laws.on_disk(clips) / GIB * wishes.copies, 1),
        "writes": round(clips / table["clips_per_commit"] * table["files_per_commit"]),
        "array_core_hours": round(laws.build(clips) * wishes.copies / 3600, 2),
        "index_core_hours": {
            f"{row['library']}, {row['towers']}": round(clips * row["core_s_per_clip"] / 3600)
            for row in indexing()
        },
    }
