"""The report of teaching.py: tables with intervals, answers to the claims, three plots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

from _estimate import Estimate, Results, difference, of, pick
from _report import REPORTS, write
from teaching import CANDIDATES, ROWS, Bench


def collect(bench: Bench, seeds: Iterable[int]) -> Results:
    """Every result that there is, by row and seed."""
    found: Results = {}
    for row in ROWS:
        for seed in seeds:
            result = bench.result(row.name, seed)
            if result is not None:
                found.setdefault(row.name, {})[seed] = result
    return found


R1, R5, COARSE = "test.t2v.r1", "test.t2v.r5", "test.coarse.r1"
HARD = "hard.t2v.r1"


@dataclass(frozen=True)
class Claim:
    """Something that is true if row `a` is above row `b`, by R@1 and R@5 on the test gallery."""

    text: str
    a: str
    b: str
    stage: str = "t2v"
    against: str = "t2v"


CLAIMS = (
    Claim("X-CLIP, as a teacher, is above meanP", "xclip", "meanp"),
    Claim("X-CLIP is above seqTransf", "xclip", "seqtransf"),
    Claim("TS2-Net is above seqTransf", "ts2net", "seqtransf"),
    Claim("X-Pool is above seqTransf", "xpool", "seqtransf"),
    Claim("AFA alone is above seqTransf", "afa", "seqtransf"),
    Claim("AFA with the contrastive term at .2 is above AFA", "afa, weight .2", "afa"),
    Claim("AFA with twice the steps is above AFA", "afa, twice the steps", "afa"),
    Claim("Teaching by X-CLIP is above AFA alone", "taught by xclip", "afa"),
    Claim("... coarse-grained teaching alone", "taught by xclip, coarse", "afa"),
    Claim("... fine-grained teaching alone", "taught by xclip, fine", "afa"),
    Claim("... against the same contrastive weight", "taught by xclip", "afa, weight .2"),
    Claim("... with the official terms", "taught by xclip, official", "afa"),
    Claim("Fine targets at .1 are above those at 1", "taught by xclip", "taught by xclip, official"),
    Claim("Teaching by X-Pool is above AFA alone", "taught by xpool", "afa"),
    Claim("Two teachers are above none", "taught by two", "afa"),
    Claim("Two teachers are above X-CLIP alone", "taught by two", "taught by xclip"),
    Claim("The taught student is above seqTransf", "taught by two", "seqtransf"),
    Claim("AFA with peaks is above AFA", "afa, peaks", "afa"),
    Claim("X-CLIP's scores by cross-entropy are above AFA alone", "taught by xclip, scores", "afa"),
    Claim("... with peaks above peaks alone", "taught by xclip, peaks", "afa, peaks"),
    Claim("... with peaks above AFA alone", "taught by xclip, peaks", "afa"),
    Claim(
        "Batches of 256: AFA with peaks is above seqTransf", "afa, peaks, batch 256", "seqtransf, batch 256"
    ),
    Claim("... taught, it is above itself", "taught, peaks, batch 256", "afa, peaks, batch 256"),
    Claim("... X-CLIP is above the taught student", "xclip, batch 256", "taught, peaks, batch 256"),
    Claim("EERCF's fine scores are above its coarse one", "eercf", "eercf", against="coarse"),
    Claim("EERCF with the constraint is above without", "eercf", "eercf, no constraint"),
    Claim(
        "... and so is its coarse score",
        "eercf",
        "eercf, no constraint",
        stage="coarse",
        against="coarse",
    ),
    Claim("vidsift's fine scores are above its coarse one", "vidsift", "vidsift", against="coarse"),
    Claim("vidsift is above X-CLIP", "vidsift", "xclip"),
    Claim("vidsift is above EERCF", "vidsift", "eercf"),
    Claim("vidsift's coarse vector is above EERCF's", "vidsift", "eercf", stage="coarse", against="coarse"),
    Claim("vidsift with peaks is above itself without", "vidsift, peaks", "vidsift"),
    Claim("... its coarse vector", "vidsift, peaks", "vidsift", stage="coarse", against="coarse"),
    Claim("vidsift with peaks is above X-CLIP", "vidsift, peaks", "xclip"),
    Claim("Taught by two, vidsift is above itself", "vidsift, taught", "vidsift"),
    Claim("... its coarse vector", "vidsift, taught", "vidsift", stage="coarse", against="coarse"),
    Claim("Two teachers are above X-CLIP alone", "vidsift, taught", "vidsift, taught by xclip"),
    Claim("vidsift is above itself without the constraint", "vidsift", "vidsift, no constraint"),
    Claim("... without the text-gated score", "vidsift", "vidsift, no gate"),
    Claim("... without the words' scores", "vidsift", "vidsift, no words"),
    Claim("... with mean pooling for AFA", "vidsift", "vidsift, mean"),
    Claim("... its coarse vector", "vidsift", "vidsift, mean", stage="coarse", against="coarse"),
)


def claims(results: Results) -> list[str]:
    """The table of answers."""
    lines = [
        "| claim | R@1 test | R@5 test | R@1 hard | answer (R@1, R@5) |",
        "|---|---:|---:|---:|---|",
    ]
    for claim in CLAIMS:
        found = [
            difference(
                results, (claim.a, f"{where}.{claim.stage}.{n}"), (claim.b, f"{where}.{claim.against}.{n}")
            )
            for where, n in (("test", "r1"), ("test", "r5"), ("hard", "r1"))
        ]
        if None in found:
            continue
        r1, r5, hard = (f for f in found if f is not None)
        answer = ", ".join(_answer(f) for f in (r1, r5))
        lines.append(
            f"| {claim.text} | {r1.mean:+.1f} ± {r1.half:.1f} | {r5.mean:+.1f} ± {r5.half:.1f} "
            f"| {hard.mean:+.1f} ± {hard.half:.1f} | {answer} |"
        )
    return lines


def _answer(found: Estimate) -> str:
    if not found.shows:
        return "does not show"
    return "yes" if found.mean > 0 else "the opposite"


_COLUMNS = ("t2v.r1", "t2v.r5", "t2v.r10", "t2v.mdr", "v2t.r1", "v2t.r5", "coarse.r1", "coarse.r5")


def main_table(results: Results, gallery: str) -> list[str]:
    """One line per row: both directions, the coarse vector alone, cost and bytes."""
    lines = [
        "| row | seeds | R@1 | R@5 | R@10 | MdR | v2t R@1 | v2t R@5 | coarse R@1 | coarse R@5 "
        "| ms, all clips | ms, k = 50 | bytes/clip |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in ROWS:
        if row.name not in results:
            continue
        cells = [of(results, row.name, f"{gallery}.{name}").text for name in _COLUMNS]
        ms = [of(results, row.name, f"cost.{n}").mean for n in ("exhaustive_ms", "two_stage_ms")]
        size = of(results, row.name, "cost.bytes").mean
        lines.append(
            f"| {row.name} | {len(results[row.name])} | {' | '.join(cells)} "
            f"| {ms[0]:.2f} | {ms[1]:.2f} | {size:,.0f} |"
        )
    return lines


def kinds_table(results: Results) -> list[str]:
    """R@1 by sort of caption."""
    some = next(iter(results.values()))
    kinds = sorted(next(iter(some.values()))["test"]["r1_by_kind"])
    lines = [f"| row | {' | '.join(kinds)} |", "|---|" + "--:|" * len(kinds)]
    for row in ROWS:
        if row.name in results:
            cells = [of(results, row.name, f"test.r1_by_kind.{kind}").text for kind in kinds]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


# Rows of the pictures: one of a kind.
DRAWN = (
    *("meanp", "seqtransf", "afa", "taught by two", "taught, peaks, batch 256"),
    *("ts2net", "xpool", "xclip", "eercf", "vidsift"),
)
STAGED = (
    *("xclip", "ts2net", "xpool", "eercf", "eercf, no constraint"),
    *("vidsift, taught", "vidsift", "vidsift, peaks"),
)


def stages_table(results: Results) -> list[str]:
    """R@1 of two stages by k, minus what ranking all clips gives."""
    heads = " | ".join(f"k = {k}" for k in CANDIDATES)
    lines = [
        f"| row | coarse only | {heads} | all clips | k = 50 minus all | the index's search (its k) |",
        "|---|" + "--:|" * (len(CANDIDATES) + 4),
    ]
    for name in STAGED:
        if name not in results:
            continue
        cells = [of(results, name, f"test.{s}.r1").text for s in ("coarse", *(f"k{k}" for k in CANDIDATES))]
        gap = difference(results, (name, "test.k50.r1"), (name, R1))
        ks = sorted({int(pick(r, "test.index.candidates")) for r in results[name].values()})
        index = f"{of(results, name, 'test.index.r1').text} ({', '.join(map(str, ks))})"
        shown = "" if gap is None else f"{gap.mean:+.2f} ± {gap.half:.2f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {of(results, name, R1).text} | {shown} | {index} |")
    return lines


def targets(results: Results) -> dict[str, str]:
    """The numbers that decide whether the aims are met."""
    found: dict[str, str] = {}
    teachers = [row.name for row in ROWS if row.group == "teacher" and row.name in results]
    taught = [row.name for row in ROWS if row.group == "taught" and row.name in results]
    if teachers and taught and "seqtransf" in results:
        best = max(teachers, key=lambda name: of(results, name, R5).mean)
        gap_of = "R@5 gap from seqTransf to its best teacher that the best taught student closes"
        found[gap_of] = _closed(results, taught, "seqtransf", best)
        larger = "taught, peaks, batch 256"
        if larger in results:
            found["... with batches of 256, which the teacher did not have"] = _closed(
                results, [larger], "seqtransf", best
            )
        if larger in results and {"seqtransf, batch 256", "xclip, batch 256"} <= results.keys():
            found["... of the gap between seqTransf and X-CLIP with batches of 256"] = _closed(
                results, [larger], "seqtransf, batch 256", "xclip, batch 256"
            )
    if "vidsift" in results:
        gap = difference(results, ("vidsift", "test.k50.r1"), ("vidsift", R1))
        if gap is not None:
            found["vidsift in two stages, k = 50, minus all clips scored, R@1"] = (
                f"{gap.mean:+.2f} ± {gap.half:.2f}"
            )
        if teachers:
            best = max(teachers, key=lambda name: of(results, name, R1).mean)
            found["R@1 of vidsift and of the best heavy teacher"] = (
                f"{of(results, 'vidsift', R1).text} and {of(results, best, R1).text} ({best})"
            )
        rows = {name: of(results, name, R1).mean for name in results if len(results[name]) > 1}
        top = max(rows, key=lambda name: rows[name])
        found["Best row by R@1"] = f"{top} ({of(results, top, R1).text})"
    return found


def _closed(results: Results, taught: list[str], low: str, high: str) -> str:
    """The part of the R@5 gap between two rows that the best of some others closes."""
    start, end = of(results, low, R5).mean, of(results, high, R5).mean
    name = max(taught, key=lambda row: of(results, row, R5).mean)
    closed = (of(results, name, R5).mean - start) / (end - start)
    return f"{100 * closed:.0f}% ({name}; {start:.1f} -> {of(results, name, R5).text} of {end:.1f}, {high})"


_INTRODUCTION = """\
One backbone (clip-tiny: its text tower is trained, what its frozen vision tower says is cached), the
storyboard world's 4,000 training videos with 20,000 captions, and the same budget of {steps} steps of 64
pairs for every row, but one with twice the steps and those with batches of 256; validation (250 videos)
chooses the model. Test: 1,000 videos with 5,000 captions; hard: 250 groups of a video and three twins with
one fact changed. Mean over seeds ± half of the 95% interval (Student's t). A seed draws the method's own
layers and the order of the batches. ms: CPU milliseconds per query against 1,000 clips, one thread; k = 50:
all coarse vectors, then the method's own score of 50. bytes/clip: what an index keeps. A row of one seed has
no interval and answers no claim. "scores": the teacher's, by cross-entropy. "peaks": beside the attentional
mean, the greatest values of a wide layer over the frames make the clip's one vector.
"""


def write_report(bench: Bench, seeds: Iterable[int]) -> None:
    """Write the JSON, the Markdown and the plots of what there is."""
    results = collect(bench, seeds)
    if not results:
        raise SystemExit(f"{bench.work}: no results yet")
    plots(results)
    rows = [
        {
            "row": name,
            "seeds": sorted(by_seed),
            **{
                where: [pick(by_seed[s], where) for s in sorted(by_seed)]
                for where in (
                    R1,
                    R5,
                    "test.t2v.r10",
                    "test.t2v.mdr",
                    COARSE,
                    HARD,
                    "test.k50.r1",
                    "cost.bytes",
                )
            },
        }
        for name, by_seed in results.items()
    ]
    text = [
        _INTRODUCTION.format(steps=bench.steps),
        "## Test gallery",
        "",
        *main_table(results, "test"),
        "",
        "## Hard gallery",
        "",
        *main_table(results, "hard"),
        "",
        "## Claims",
        "",
        "Differences are paired by seed; an effect shows if its 95% interval leaves out 0.",
        "",
        *claims(results),
        "",
        "## R@1 by sort of caption (test)",
        "",
        *kinds_table(results),
        "",
        "## Two stages (test, R@1)",
        "",
        *stages_table(results),
        "",
        "![Accuracy against cost; R@1 against k; validation while training](teaching.png)",
    ]
    write(
        "teaching",
        headline=targets(results),
        rows=rows,
        packages=("torch", "numpy"),
        text="\n".join(text),
    )


# -- plots ---------------------------------------------------------------------------------------------

_COLOURS = {
    "baseline": "#6b7280",
    "teacher": "#c2410c",
    "taught": "#2563a8",
    "two stages": "#7c3aed",
    "vidsift": "#15803d",
    "larger": "#0e7490",
}


def plots(results: Results) -> None:
    """Draw R@1 against cost per query, R@1 against k, and validation R@1 by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(18, 5.6), dpi=110)
    for row in ROWS:
        if row.name not in results or row.name not in DRAWN:
            continue
        r1, colour = of(results, row.name, R1), _COLOURS[row.group]
        ms = of(results, row.name, "cost.exhaustive_ms").mean
        left.errorbar(ms, r1.mean, yerr=_finite(r1.half), fmt="o", color=colour, capsize=3)
        below = row.name in ("taught by two", "eercf")
        shift = (6, -10 if below else 4)
        left.annotate(row.name, (ms, r1.mean), xytext=shift, textcoords="offset points", fontsize=8)
        if row.group in ("two stages", "vidsift"):
            staged = of(results, row.name, "test.k50.r1")
            ms = of(results, row.name, "cost.two_stage_ms").mean
            left.errorbar(ms, staged.mean, yerr=_finite(staged.half), fmt="s", mfc="none", color=colour)
            left.annotate(
                f"{row.name}, k = 50",
                (ms, staged.mean),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
            )
    left.set(xscale="log", xlabel="CPU ms per query, 1,000 clips, one thread", ylabel="R@1, test gallery (%)")
    left.set_title("Accuracy against cost")

    for name in STAGED:
        if name not in results or name == "eercf, no constraint":
            continue
        xs = [1, *CANDIDATES, 1000]
        places = ["test.coarse.r1", *(f"test.k{k}.r1" for k in CANDIDATES), R1]
        middle.plot(xs, [of(results, name, place).mean for place in places], marker="o", label=name)
    middle.set(
        xscale="log", xlabel="candidates k (1: coarse only, 1,000: all)", ylabel="R@1, test gallery (%)"
    )
    middle.set_title("Two stages")
    middle.legend(frameon=False, fontsize=8)

    ends: dict[str, tuple[float, float]] = {}
    for row in ROWS:
        if row.name not in results or row.name not in DRAWN:
            continue
        curves = [result["curve"] for result in results[row.name].values()]
        steps = [point["step"] for point in curves[0]]
        values = [mean(curve[i]["r1"] for curve in curves) for i in range(len(steps))]
        right.plot(steps, values, color=_COLOURS[row.group], alpha=0.8)
        ends[row.name] = (steps[-1], values[-1])
    last = float("-inf")
    for name, (step, value) in sorted(ends.items(), key=lambda end: end[1][1]):
        last = max(value, last + 0.6)  # names of curves that end together stand above each other
        right.annotate(name, (step, last), xytext=(4, -3), textcoords="offset points", fontsize=7)
    right.set(xlabel="step", ylabel="R@1, validation (%)")
    right.set_title("Training")
    for axes in (left, middle, right):
        axes.grid(True, color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(REPORTS / "teaching.png")


def _finite(half: float) -> float:
    return half if half != float("inf") else 0.0
