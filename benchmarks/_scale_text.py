"""The report of scale_model.py: its tables and its plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from _report import REPORTS
from _scale_plan import GIB, MOST_SIMULATED, Laws, Wishes, usual
from _scale_shards import CORES

SIZES, TAILS = "scale_model_sizes.png", "scale_model_tails.png"
_COLOURS = {"exact": "tab:orange", "coded": "tab:blue"}
_NAMES = {"exact": "every int8 vector", "coded": "4-bit codes, picked ones in int8"}
Found = dict[str, list[dict[str, Any]]]


def text(about: str, laws: Laws, found: Found, wishes: Wishes, shard_clips: int, text_ms: float) -> str:
    """The part of the report below its headline."""
    extra = ", ".join(
        f"{r['sent'] - 1:.1%} ({r['scan']}, load {r['load']:g})" for r in found["tails"] if _one_hedged(r)
    )
    parts = [
        about.strip(),
        f"![what a shard takes, and how much memory]({SIZES})",
        f"![the slowest of several shards]({TAILS})",
        "## The laws",
        _laws(laws),
        "## Sizes that were measured",
        "Medians of single queries, milliseconds of one core. What is not marked was not seen by the fit.",
        _sizes(found["sizes"]),
        "## Small clusters",
        f"""
Shards of {shard_clips:,} clips, each a process with files of its own; p50 / p95 / p99 in
milliseconds, as whoever asks sees them. Drawn: the greatest of independent draws from single
answers to one half of the queries. Replayed: the greatest of single answers to the same query of
the other half, one shard after the other. Then all at the same time on this machine's {CORES}
cores, beside draws that share {CORES} cores.""",
        _fans(found["fans"]),
        """
Queries that come at random, whether or not those before them are answered; simulated from single
answers after pauses as random (a core that has rested is slower) with the same arrivals. Hedged: asked
of the other replica when no answer has come by the p95. Sent: requests for each query and shard.""",
        _queues(found["queues"]),
        "## The slowest of many shards",
        f"""
In medians of a single answer, two replicas of every shard, simulated. Hedging is extra work:
{extra}.""",
        _tails(found["tails"]),
        "## Plans",
        f"""
Machines of {wishes.node_cores} cores and {wishes.node_gib:g} GiB, {wishes.fill:.0%} of it for
arrays; a shard a core, {wishes.copies} copies of each; {wishes.per_s:g} queries a second; a core
works at most {wishes.load:.0%} of the time and a shard at most {wishes.target_ms:g} ms for a query.
Latencies are p50 / p95 / p99 with {text_ms:.1f} ms for the text tower ([encode](encode.md)) and two
rounds of {wishes.network_ms:g} ms over the network, which is assumed. Machines are of all copies;
memory is what is scanned and scored; with more than {MOST_SIMULATED} shards the slowest of
{MOST_SIMULATED} is simulated. The codes of a shard pick its share of the whole index's picks and half
as many more; shards that are asked again are not counted. Picks: as many as usual, and as many as an
index may be tuned to (`vidsift tune`), whose recall nobody has measured at these sizes.""",
        _plans(found["plans"]),
        "## What the price depends on",
        f"""
Table: {laws.table["bytes_per_clip"]:,.0f} bytes a clip as measured, and {wishes.thumbnail / 1024:g}
KiB for a thumbnail, which is assumed. Arrays: of all copies. Files written: by full commits of
{laws.table["clips_per_commit"]:.0f} clips, before compaction. Core-hours: making all copies'
arrays; reading and encoding by [ingest](ingest.md) and [encode](encode.md), ViT-B/32, on the
machines that they name.""",
        _drivers(found["drivers"]),
    ]
    return "\n\n".join(part.strip() for part in parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _three(values: Sequence[float], digits: int = 1) -> str:
    return " / ".join(f"{value:,.{digits}f}" for value in values)


def _laws(laws: Laws) -> str:
    scans = laws.scans
    e, c, r, b = (law.coefficients for law in (scans.exact, scans.coded, laws.rerank, laws.build))
    named = {"codes": "codes", "vectors": "int8 vectors", "frames": "int8 frames"}
    lines = [
        f"exact scan, ms: {e[0]:.3f} + {1e6 * e[1]:.1f} ns a clip",
        f"coded scan, ms: {c[0]:.3f} + {1e6 * c[1]:.2f} ns a clip + {1e3 * c[2]:.3f} µs for each picked one",
        f"rerank of 100, ms: {r[0]:.3f} + {r[1]:.4f} ln(clips)",
        f"making the arrays, s of a core: {b[0]:.1f} + {1e6 * b[1]:.1f} µs a clip",
    ]
    for kind, law in laws.bytes.items():
        first, each = law.coefficients
        lines.append(f"{named.get(kind, 'the other arrays')}, bytes: {first:,.0f} + {each:.1f} a clip")
    first, each = laws.anonymous.coefficients
    lines.append(
        f"anonymous memory of a shard's process: {first / 2**20:.0f} MiB + {each:.0f} bytes a clip "
        "(the codes; the other arrays are mapped)"
    )
    return "\n".join(f"- {line}" for line in lines)


def _sizes(rows: list[dict[str, Any]]) -> str:
    return _table(
        ("what", "clips", "measured", "predicted", "error", "fitted to"),
        [
            (
                row["what"],
                f"{row['clips']:,}",
                f"{row['measured']:,.2f}",
                f"{row['predicted']:,.2f}",
                f"{row['error']:+.1%}",
                "yes" if row["fitted"] else "",
            )
            for row in sorted(rows, key=lambda row: (row["what"], row["clips"]))
        ],
    )


def _fans(rows: list[dict[str, Any]]) -> str:
    names = ("drawn_ms", "replayed_ms", "shared_ms", "together_ms")
    return _table(
        ("scan", "shards", "drawn", "replayed", "drawn, two cores", "together, two cores"),
        [(row["scan"], str(row["shards"]), *(_three(row[name], 2) for name in names)) for row in rows],
    )


def _queues(rows: list[dict[str, Any]]) -> str:
    return _table(
        ("cluster", "load", "queries", "measured", "simulated", "sent, measured", "sent, simulated"),
        [
            (
                row["cluster"],
                f"{row['load']:g}",
                f"{row['queries']:,}",
                _three(row["measured_ms"], 2),
                _three(row["simulated_ms"], 2),
                f"{row['measured_sent']:.3f}",
                f"{row['simulated_sent']:.3f}",
            )
            for row in rows
        ],
    )


def _one_hedged(row: dict[str, Any]) -> bool:
    return bool(row["hedged"] and row["shards"] == 1)


def _tails(rows: list[dict[str, Any]]) -> str:
    by = {(row["scan"], row["load"], row["hedged"], row["shards"]): row["times_median"] for row in rows}
    cases = list(dict.fromkeys((row["scan"], row["load"], row["hedged"]) for row in rows))
    counts = sorted({row["shards"] for row in rows})
    return _table(
        ("scan", "load", "hedged", *(f"S = {count}" for count in counts)),
        [
            (
                kind,
                f"{load:g}",
                "yes" if hedged else "",
                *(_three(by[kind, load, hedged, n], 2) for n in counts),
            )
            for kind, load, hedged in cases
        ],
    )


def _plans(rows: list[dict[str, Any]]) -> str:
    return _table(
        (
            *("clips", "scan", "machines", "shards", "a shard, ms", "load", "latency, ms", "hedged, ms"),
            *("work of hedging", "memory of a copy, GiB", "arrays of a copy, GiB", "core-ms a query"),
        ),
        [
            (
                f"{row['clips']:,}",
                row["scan"],
                f"{row['nodes']:,}",
                f"{row['shards']:,}",
                f"{row['shard_ms']:.1f}",
                f"{row['load']:.2f}",
                _three(row["latency_ms"], 0),
                _three(row["hedged_ms"], 0),
                f"{row['hedging_costs']:+.1%}",
                f"{row['memory_gib']:,.1f}",
                f"{row['arrays_gib']:,.1f}",
                f"{row['core_ms_per_query']:,.0f}",
            )
            for row in rows
        ],
    )


def _drivers(rows: list[dict[str, Any]]) -> str:
    first = [
        ("table, GiB", "table_gib"),
        ("arrays, GiB", "arrays_gib"),
        ("files written", "writes"),
        ("arrays, core-hours", "array_core_hours"),
    ]
    lines = [(name, *(f"{row[key]:,}" for row in rows)) for name, key in first]
    for name in rows[0]["index_core_hours"]:
        lines.append((f"{name}, core-hours", *(f"{row['index_core_hours'][name]:,}" for row in rows)))
    return _table(("", *(f"{row['clips']:,} clips" for row in rows)), lines)


def plots(laws: Laws, measured: dict[bool, list[dict[str, Any]]], found: Found) -> None:
    """Time and memory against clips with what was measured; tails against shards with and without hedging."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = picture.subplots(1, 3)
    clips = np.logspace(np.log10(min(row["clips"] for row in measured[True])), 7, 60)
    _times(left, laws, clips, found["sizes"])
    _memory(middle, laws, measured)
    _planned(right, found["plans"])
    picture.savefig(REPORTS / SIZES, dpi=110)
    picture = Figure(figsize=(15, 4.6), layout="constrained")
    axes = picture.subplots(1, 3)
    tails = [row for row in found["tails"] if row["scan"] == "coded"]
    for one, load in zip(axes, sorted({row["load"] for row in tails}), strict=False):
        _slowest(one, [row for row in tails if row["load"] == load], load)
    _checked(axes[2], found)
    picture.savefig(REPORTS / TAILS, dpi=110)


def _times(axes: Any, laws: Laws, clips: Any, rows: list[dict[str, Any]]) -> None:
    scans = {"exact": lambda n: laws.scan_ms(n, None), "coded": lambda n: laws.scan_ms(n, usual(n))}
    colours = {"scan, exact, ms": "tab:orange", "scan, coded, ms": "tab:blue", "rerank of 100, ms": "0.5"}
    for kind, colour in _COLOURS.items():
        axes.plot(clips, [scans[kind](n) for n in clips], color=colour, label=_NAMES[kind])
    axes.plot(clips, [laws.rerank(n) for n in clips], color="0.5", label="rerank of 100")
    for row in rows:
        if row["what"] in colours:
            own = colours[row["what"]]
            axes.plot(row["clips"], row["measured"], "o", color=own, mfc=own if row["fitted"] else "white")
    axes.plot([], [], "o", color="black", label="measured, fitted to")
    axes.plot([], [], "o", color="black", mfc="white", label="measured, not fitted to")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="clips of a shard",
        ylabel="ms of one core",
        title="One query, one shard",
    )
    axes.legend(frameon=False, fontsize=8)


def _memory(axes: Any, laws: Laws, measured: dict[bool, list[dict[str, Any]]]) -> None:
    clips = np.logspace(np.log10(min(row["clips"] for row in measured[True])), 9, 40)
    for kind, colour in _COLOURS.items():
        label = f"memory: {_NAMES[kind]}"
        axes.plot(clips, [laws.resident(n, kind == "coded") / GIB for n in clips], color=colour, label=label)
    axes.plot(clips, [laws.on_disk(n) / GIB for n in clips], color="tab:green", label="disk: all arrays")
    for fitted, rows in measured.items():
        for row in rows:
            own = row["bytes"]
            for colour, bytes_ in (
                ("tab:orange", own["vectors"]),
                ("tab:blue", own["vectors"] + own["codes"]),
                ("tab:green", sum(own.values())),
            ):
                axes.plot(
                    row["clips"], bytes_ / GIB, "o", color=colour, mfc=colour if fitted else "white", ms=5
                )
    axes.set(xscale="log", yscale="log", xlabel="clips", ylabel="GiB of one copy", title="Memory and disk")
    axes.legend(frameon=False, fontsize=8)


def _planned(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Three plans for every number of clips: exact, by codes as usual, by codes that pick a fixed number."""
    names = ("exact", "coded, usual", rows[2]["scan"].removesuffix(" picked"))
    for number, (name, colour) in enumerate(zip(names, ("tab:orange", "tab:blue", "tab:cyan"), strict=True)):
        own = rows[number::3]
        for percentile, style in ((0, "-"), (2, "--")):
            values = [row["latency_ms"][percentile] for row in own]
            label = f"{name}, {('p50', 'p95', 'p99')[percentile]}"
            axes.plot([row["clips"] for row in own], values, style, marker="s", color=colour, label=label)
        for row in own:
            where, beside = (row["clips"], row["latency_ms"][0]), (-30 + 22 * number, -14)
            offset = {"textcoords": "offset points", "xytext": beside, "fontsize": 8, "color": colour}
            axes.annotate(f"{row['nodes']:,}", where, **offset)
    axes.margins(x=0.2)
    axes.set(
        xscale="log", xlabel="clips", ylabel="ms, text tower to answer", title="Plans (figures: machines)"
    )
    axes.set_ylim(0, 1.5 * max(row["latency_ms"][2] for row in rows))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")


def _slowest(axes: Any, rows: list[dict[str, Any]], load: float) -> None:
    for place, colour in ((0, "tab:green"), (1, "tab:blue"), (2, "tab:red")):
        for hedged, style in ((False, "-"), (True, "--")):
            own = [row for row in rows if row["hedged"] == hedged]
            label = ("p50", "p95", "p99")[place] + (", hedged" if hedged else "")
            values = [row["times_median"][place] for row in own]
            axes.plot([row["shards"] for row in own], values, style, marker=".", color=colour, label=label)
    axes.set(
        xscale="log",
        xlabel="shards",
        ylabel="times the median of one answer",
        title=f"The slowest shard, coded scan, load {load:g}",
    )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)


def _checked(axes: Any, found: Found) -> None:
    pairs = [
        ("drawn against replayed", "o", found["fans"], "replayed_ms", "drawn_ms"),
        ("two cores shared", "s", found["fans"], "together_ms", "shared_ms"),
        ("queues", "^", found["queues"], "measured_ms", "simulated_ms"),
    ]
    top = 0.0
    for name, marker, rows, measured, predicted in pairs:
        xs = [value for row in rows for value in row[measured]]
        ys = [value for row in rows for value in row[predicted]]
        axes.plot(xs, ys, marker, alpha=0.6, label=name)
        top = max([top, *xs, *ys])
    line = np.array([min(0.5, top / 100), top])
    axes.plot(line, line, color="0.3", linewidth=1)
    axes.fill_between(line, line / 1.25, line * 1.25, color="0.9", zorder=0, label="within a quarter")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="measured, ms",
        ylabel="simulated, ms",
        title="Small clusters: p50, p95, p99",
    )
    axes.legend(frameon=False, fontsize=8)
