"""What 10 million, 100 million and a billion clips cost: a model fitted to smaller indexes, and checked.

Index folders over synthetic clips (512 dimensions, 12 int8 frames; made as an index of millions is: int8
vectors and 4-bit codes) are built and asked by a process of one thread, arrays warm. Laws are fitted to some
sizes; sizes that the fit has not seen are predicted and measured. A shard's service times are measured one
query at a time; from them the slowest of several shards is drawn, queues are simulated, and small clusters of
processes on this machine are asked for comparison. Then the laws are continued to sizes nobody measured here.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from _report import machine, write
from _scale_measure import copies, draw_queries, measure, table
from _scale_plan import Laws, Wishes, drivers, plan, text_tower_ms, usual
from _scale_shards import CORES, Shards
from _scale_text import plots, text
from _scale_theory import (
    Floats,
    Law,
    Scans,
    fan_out,
    linear,
    on_cores,
    percentiles,
    replicas_answer,
    slowest,
)

FITTED, HELD_OUT = (0.05, 0.1, 0.2, 0.3, 0.5), (0.4, 1.0)
PREDICTED = (10_000_000, 100_000_000, 1_000_000_000)
FANS, SEED = (1, 2, 4, 8), 11
SIMULATED, LIGHT = (1, 2, 4, 8, 16, 32, 64, 128), 0.1
KINDS = ("exact", "coded")
REPEATS, ALLOWED = 20, 0.25


def fit_laws(rows: list[dict[str, Any]], about: dict[str, float]) -> Laws:
    """The laws through measured indexes (`_scale_measure.measure`) and their table."""
    clips = [row["clips"] for row in rows]
    points = [(n,) for n in clips]

    def law(values: list[float], terms: Any = linear) -> Law:
        return Law.through(terms, points, values)

    picks = [(row["clips"], picked) for row in rows for picked in row["coded"]]
    coded = [_ms(took["scan"]) for row in rows for took in row["coded"].values()]
    return Laws(
        scans=Scans.through(clips, [_ms(row["exact"]["scan"]) for row in rows], picks, coded),
        rerank=law([_ms(row["exact"]["rerank"]) for row in rows], lambda n: (1.0, np.log(max(n, 1.0)))),
        build=law([row["build_s"] for row in rows]),
        bytes={kind: law([row["bytes"][kind] for row in rows]) for kind in rows[0]["bytes"]},
        anonymous=law([row["anonymous"] for row in rows]),
        table=about,
    )


def _ms(seconds: Floats) -> float:
    return 1e3 * float(np.median(seconds))


def compare(laws: Laws, row: dict[str, Any], fitted: bool) -> list[dict[str, Any]]:
    """Everything measured at one size beside what the laws say."""
    n = row["clips"]
    found = [
        ("scan, exact, ms", _ms(row["exact"]["scan"]), laws.scan_ms(n, None)),
        ("rerank of 100, ms", _ms(row["exact"]["rerank"]), laws.rerank(n)),
        ("making the arrays, s of a core", row["build_s"], laws.build(n)),
        ("anonymous memory, MiB", row["anonymous"] / 2**20, laws.anonymous(n) / 2**20),
        *((f"{kind}, MiB", row["bytes"][kind] / 2**20, laws.bytes[kind](n) / 2**20) for kind in row["bytes"]),
    ]
    if usual(n) in row["coded"]:
        found.insert(1, ("scan, coded, ms", _ms(row["coded"][usual(n)]["scan"]), laws.scan_ms(n, usual(n))))
    return [
        {
            "clips": n,
            "fitted": fitted,
            "seeds": [1, 7],
            "what": what,
            "measured": round(measured, 3),
            "predicted": round(predicted, 3),
            "error": round(predicted / measured - 1, 3),
        }
        for what, measured, predicted in found
    ]


def fans(shards: Shards, asked: Any, kind: str) -> tuple[list[dict[str, Any]], Floats]:
    """The slowest of some shards: drawn from single answers, replayed, and really asked at the same time."""
    rng = np.random.default_rng(SEED)
    half = len(asked) // 2
    for shard in range(len(shards.pipes)):
        shards.alone(shard, asked[:20], kind)  # memory of its own, pages mapped
    alone = np.stack([shards.alone(s, asked, kind)["whole"] for s in range(len(shards.pipes))], axis=1)
    # Predictions come from one half of the queries, comparisons from the other.
    known, others = alone[:half].ravel(), alone[half:]
    rows = []
    for count in FANS:
        if count > len(shards.pipes):
            continue
        drawn = rng.choice(known, (20_000, count))
        replayed = others[:, :count].max(1)
        together = shards.together(count, asked[half:], kind)
        rows.append(
            {
                "scan": kind,
                "shards": count,
                "seeds": [SEED],
                "drawn_ms": _three(slowest(known, count, rng)),
                "replayed_ms": _three(replayed),
                "shared_ms": _three(on_cores(drawn, CORES)),
                "together_ms": _three(together),
            }
        )
    return rows, alone.ravel()


def _three(seconds: Floats) -> list[float]:
    return [round(1e3 * p, 2) for p in percentiles(seconds)]


def queues(shards: Shards, asked: Any, seconds: float, kind: str) -> list[dict[str, Any]]:
    """One shard, two shards, and two replicas of one with and without hedging, under random arrivals:
    measured and simulated with the same arrivals."""
    # A core that has rested answers more slowly than one that never does: pauses as random as arrivals are.
    usual_s = float(shards.alone(0, asked[:50], kind)["whole"].mean())
    rests = np.random.default_rng(SEED).exponential(usual_s, len(asked)).tolist()
    services = shards.alone(0, asked, kind, pauses=rests)["whole"]
    rows = []
    for name, groups, load, hedged in (
        ("one shard", [[0]], 0.5, False),
        ("two shards", [[0], [1]], 0.3, False),
        ("one shard, two replicas", [[0, 1]], 0.3, False),
        ("one shard, two replicas, hedged", [[0, 1]], 0.3, True),
    ):
        rng = np.random.default_rng(SEED)
        replicas = len(groups[0])
        rate = load * replicas / float(services.mean())
        arrivals = np.cumsum(rng.exponential(1 / rate, max(50, int(seconds * rate))))
        after = None
        if hedged:
            plain = [replicas_answer(arrivals, services, rng, replicas, None).latency for _ in range(REPEATS)]
            after = float(np.percentile(plain, 95))
        # Few queries can be measured, and slow answers are rare: the simulation is repeated.
        told = [
            [replicas_answer(arrivals, services, rng, replicas, after) for _ in groups]
            for _ in range(REPEATS)
        ]
        took, sent = shards.under_load(groups, asked, arrivals, kind, after)
        rows.append(
            {
                "cluster": name,
                "scan": kind,
                "seeds": [SEED],
                "load": load,
                "queries": len(arrivals),
                "measured_ms": _three(took),
                "simulated_ms": _three(
                    np.concatenate([np.max([one.latency for one in every], axis=0) for every in told])
                ),
                "measured_sent": round(sent, 3),
                "simulated_sent": round(float(np.mean([one.sent for every in told for one in every])), 3),
            }
        )
    return rows


def tails(services: Floats, kind: str, load: float) -> list[dict[str, Any]]:
    """Latency of a fan-out to more and more shards of two replicas, in medians of one answer alone."""
    shape = services / float(np.median(services))
    rows: list[dict[str, Any]] = []
    for hedged in (False, True):
        rng = np.random.default_rng(SEED)
        found, sent = fan_out(shape, max(SIMULATED), load, rng, hedged=hedged)
        for count in SIMULATED:
            rows.append(
                {
                    "scan": kind,
                    "seeds": [SEED],
                    "load": load,
                    "hedged": hedged,
                    "shards": count,
                    "times_median": [round(p, 3) for p in percentiles(found[:count].max(0))],
                    "sent": round(sent, 3),
                }
            )
    return rows


def wishes_of(asked: argparse.Namespace, here: dict[str, Any]) -> Wishes:
    return Wishes(
        node_gib=asked.node_gib or here["memory_gib"],
        node_cores=asked.node_cores or here["cores"],
        copies=asked.copies,
        per_s=asked.per_s,
        load=asked.load,
        target_ms=asked.target_ms,
        fill=0.8,
        network_ms=asked.network_ms,
        thumbnail=round(1024 * asked.thumbnail_kib),
        picked=asked.picked,
    )


def main() -> None:
    """Measure, fit, compare, predict and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000, help="of the largest index that is measured")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20, help="of every cluster under load")
    parser.add_argument("--node-gib", type=float, help="memory of a machine; default: this one's")
    parser.add_argument("--node-cores", type=int, help="cores of a machine; default: this one's")
    parser.add_argument("--copies", type=int, default=2, help="of every shard")
    parser.add_argument("--per-s", type=float, default=10, help="queries a second that are to be answered")
    parser.add_argument("--load", type=float, default=0.4, help="share of the time that a core may work")
    parser.add_argument("--target-ms", type=float, default=100, help="for what one shard does for a query")
    parser.add_argument("--network-ms", type=float, default=1.0, help="assumed: there and back")
    parser.add_argument("--thumbnail-kib", type=float, default=10.0, help="assumed: a thumbnail of the table")
    parser.add_argument("--picked", type=int, default=64_000, help="clips that codes pick in a tuned index")
    asked = parser.parse_args()
    if asked.clips < 200_000:
        parser.error("--clips: from 200,000 on; a smaller index has no use for codes")
    wishes = wishes_of(asked, machine())
    measured: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    found: dict[str, list[dict[str, Any]]] = {"fans": [], "queues": [], "tails": [], "plans": []}
    services: dict[str, Floats] = {}
    with tempfile.TemporaryDirectory() as name:
        about = table(Path(name) / "table")
        for share in sorted(FITTED + HELD_OUT):
            folder, clips = Path(name) / f"of-{share}", round(share * asked.clips)
            row = measure(folder, clips, asked.queries, keep=share == FITTED[1])
            measured[share in FITTED].append(row)
            print(clips, f"{row['build_s']:.1f} s", _ms(row["exact"]["scan"]), flush=True)
        shard_clips = round(FITTED[1] * asked.clips)
        folders = copies(Path(name) / f"of-{FITTED[1]}", max(FANS))
        queries = draw_queries(folders[0], 4 * asked.queries, SEED)
        with Shards(folders) as shards:
            for kind in KINDS:
                rows, services[kind] = fans(shards, queries, kind)
                found["fans"] += rows
            found["queues"] = queues(shards, queries, asked.seconds, "coded")
    laws = fit_laws(measured[True], about)
    found["sizes"] = [
        one for fitted, rows in measured.items() for row in rows for one in compare(laws, row, fitted)
    ]
    for kind in KINDS:
        for load in (LIGHT, wishes.load):
            found["tails"] += tails(services[kind], kind, load)
    for clips in PREDICTED:
        for picked in (None, usual(clips), wishes.picked):
            shape = services["exact" if picked is None else "coded"]
            found["plans"].append(plan(laws, picked, clips, wishes, shape, text_tower_ms(), SEED))
    found["drivers"] = [drivers(laws, clips, wishes) for clips in PREDICTED]
    headline = {}
    for name, unit in (("times", ("ms", "s of a core")), ("bytes", ("MiB",))):
        held = [one for one in found["sizes"] if not one["fitted"] and one["what"].endswith(unit)]
        worst = max(held, key=lambda one: abs(one["error"]))
        within = sum(abs(one["error"]) <= ALLOWED for one in held)
        headline[f"{name} predicted at sizes that were not fitted, within {ALLOWED:.0%}"] = (
            f"{within} of {len(held)}; the furthest off: {worst['what']} of {worst['clips']:,} clips, "
            f"{worst['error']:+.0%}"
        )
    for one in found["plans"]:
        headline[f"{one['clips']:,} clips, {one['scan']}"] = (
            f"{one['nodes']:,} machines, p50 / p95 / p99 "
            + " / ".join(f"{p:.0f}" for p in one["latency_ms"])
            + " ms"
        )
    plots(laws, measured, found)
    assert __doc__ is not None
    path = write(
        "scale_model",
        headline=headline,
        rows=[row for rows in found.values() for row in rows],
        packages=("faiss-cpu", "numpy", "lancedb"),
        text=text(__doc__, laws, found, wishes, shard_clips, text_tower_ms()),
    )
    print(path)


if __name__ == "__main__":
    main()
