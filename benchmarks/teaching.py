"""What teaching is worth, on the storyboard world: baselines, heavy teachers, taught students, two stages.

Every row is a recipe of recipes/storyboard with a few settings over it, trained once per seed with the same
budget, and chosen on validation. A seed's students learn from the teachers of the same seed. All that was
measured of a run is kept under reports/teaching_runs, so that a program that was interrupted goes on,
on another machine, too. Models are not kept: a teacher whose model is missing is trained again.
Writes reports/teaching.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "reports" / "teaching_runs"
CANDIDATES = (10, 25, 50, 100)


@dataclass(frozen=True)
class Row:
    """One row of the report: a recipe, what is set over it, and the rows whose models teach it."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    group: str = "baseline"


_ALONE = "objective={contrastive: {similarity: 1.0}}"
_OFFICIAL = "objective={preset: teachclip-code}"
# The teacher's scores by cross-entropy, which is published divided by the batch's size: as much for each.
_SCORES = "objective={contrastive: {similarity: 0.2}, coarse_teaching: {weight: %d, kind: cross_entropy}}"
_PEAKS = "method.settings.peaks=true"
_LARGE = "batch=256"
TWO = ("xclip", "xpool")

ROWS = (
    Row("meanp", "meanp"),
    Row("seqtransf", "seqtransf"),
    Row("afa", "teachclip", (_ALONE, "teachers=null")),
    Row("afa, weight .2", "teachclip", ("objective={contrastive: {similarity: 0.2}}", "teachers=null")),
    Row("afa, twice the steps", "teachclip", (_ALONE, "teachers=null", "steps=600")),
    Row("xclip", "xclip", group="teacher"),
    Row("xpool", "xpool", group="teacher"),
    Row("ts2net", "ts2net", group="teacher"),
    Row("eercf", "eercf", group="two stages"),
    Row("eercf, no constraint", "eercf", ("objective.correlation=null",), group="two stages"),
    Row("taught by xclip", "teachclip", (), ("xclip",), "taught"),
    Row("taught by xclip, coarse", "teachclip", ("objective.fine_teaching=null",), ("xclip",), "taught"),
    Row("taught by xclip, fine", "teachclip", ("objective.coarse_teaching=null",), ("xclip",), "taught"),
    Row("taught by xclip, official", "teachclip", (_OFFICIAL,), ("xclip",), "taught"),
    Row("taught by xpool", "teachclip", (), ("xpool",), "taught"),
    Row("taught by two", "teachclip", (), TWO, "taught"),
    Row("afa, peaks", "teachclip", (_ALONE, "teachers=null", _PEAKS)),
    Row("taught by xclip, scores", "teachclip", (_SCORES % 30,), ("xclip",), "taught"),
    Row("taught by xclip, peaks", "teachclip", (_SCORES % 30, _PEAKS), ("xclip",), "taught"),
    Row("seqtransf, batch 256", "seqtransf", (_LARGE,), group="larger"),
    Row("afa, peaks, batch 256", "teachclip", (_ALONE, "teachers=null", _PEAKS, _LARGE), group="larger"),
    Row("taught, peaks, batch 256", "teachclip", (_SCORES % 120, _PEAKS, _LARGE), ("xclip",), "larger"),
    Row("xclip, batch 256", "xclip", (_LARGE,), group="larger"),
    Row("vidsift", "vidsift", group="vidsift"),
    Row("vidsift, taught", "vidsift-taught", (), TWO, "vidsift"),
    Row("vidsift, taught by xclip", "vidsift-taught", (), ("xclip",), "vidsift"),
    Row("vidsift, peaks", "vidsift", (_PEAKS,), group="vidsift"),
    Row("vidsift, no constraint", "vidsift", ("objective.correlation=null",), (), "vidsift"),
    Row("vidsift, no gate", "vidsift", ("method.settings.gated=false",), (), "vidsift"),
    Row("vidsift, no words", "vidsift", ("method.settings.worded=false",), (), "vidsift"),
    Row("vidsift, mean", "vidsift", ("method.settings.attentional=false",), (), "vidsift"),
)


def by_name(name: str) -> Row:
    """The row of a name."""
    return next(row for row in ROWS if row.name == name)


@dataclass(frozen=True)
class Task:
    """One thing that a process does: train and measure a row, or have a teacher write down what it says."""

    row: str
    seed: int
    distils: bool = False


@dataclass(frozen=True)
class Bench:
    """Where runs lie, how long they are, and how large the world is."""

    work: Path
    results: Path
    steps: int
    videos: int | None = None
    threads: int = 1

    def folder(self, row: str, seed: int) -> Path:
        return self.work / _file_name(row, seed)

    def recipe(self, row: Row, seed: int) -> Any:
        """The row's recipe, resolved."""
        from vidsift.training.recipe import load_recipe

        over = [f"seed={seed}", f"features.folder={self.work / 'features'}", f"threads={self.threads}"]
        over += [f"steps={self.steps}", "data.val_videos=250", "validation.every=100"]
        if self.videos:
            over += [f"data.train_videos={self.videos}", f"data.val_videos={max(20, self.videos // 8)}"]
        over += row.changes
        if row.teachers:
            models = json.dumps([str(self.folder(name, seed) / "model") for name in row.teachers])
            over += [f"teachers={{models: {models}, cache: {self.work / 'teachers'}}}"]
        return load_recipe(ROOT / "recipes" / "storyboard" / f"{row.recipe}.yaml", over)

    def result(self, row: str, seed: int) -> dict[str, Any] | None:
        """What was measured, if it was measured of the recipe as it is now."""
        path = self.result_file(row, seed)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        recipe = self.recipe(by_name(row), seed).model_dump(mode="json")
        return found if found["recipe"] == _decisive(recipe) else None

    def result_file(self, row: str, seed: int) -> Path:
        return self.results / f"{_file_name(row, seed)}.json"

    def lacks(self, row: str, seed: int) -> bool:
        """Whether a teacher's model is not at hand."""
        return not (self.folder(row, seed) / "model").is_dir()


def _file_name(row: str, seed: int) -> str:
    return f"{row.replace(', ', '-').replace(' ', '-')}-{seed}"


def _decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what decides nothing: what the run is called, and where its folders are."""
    kept = recipe | {"name": "", "features": recipe["features"] | {"folder": ""}}
    if recipe["teachers"]:
        models = [Path(model).parent.name for model in recipe["teachers"]["models"]]
        kept["teachers"] = recipe["teachers"] | {"cache": "", "models": models}
    return kept


def work_on(bench: Bench, task: Task) -> str:
    """Do one task; returns a line for the log."""
    import torch

    torch.set_num_threads(bench.threads)
    began = time.perf_counter()
    row = by_name(task.row)
    if task.distils:
        from vidsift.training.distributed import World
        from vidsift.training.setup import prepare

        taught = Row("", "teachclip", (), (row.name,))
        prepare(bench.recipe(taught, task.seed), World())
        return f"{row.name} {task.seed}: wrote down what it says in {time.perf_counter() - began:.0f} s"
    result = train_and_measure(bench, row, task.seed)
    path = bench.result_file(row.name, task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    test = result["test"]["t2v"]
    return (
        f"{row.name} {task.seed}: test R@1 {test['r1']:.1f}, R@5 {test['r5']:.1f} "
        f"in {time.perf_counter() - began:.0f} s"
    )


def train_and_measure(bench: Bench, row: Row, seed: int) -> dict[str, Any]:
    """Train one row with one seed, and measure the model that validation chose."""
    from vidsift.models import load_model
    from vidsift.training.data import load_pairs
    from vidsift.training.loop import gallery, train
    from vidsift.training.setup import open_inputs

    recipe, folder = bench.recipe(row, seed), bench.folder(row.name, seed)
    final = train(recipe, folder)
    model = load_model(str(folder / "model"))
    data = recipe.data.model_copy(
        update={"train": "test", "val": "hard", "train_videos": bench.videos, "val_videos": bench.videos}
    )
    sets = load_pairs(recipe.model_copy(update={"data": data}), model.preprocess.geometry)
    galleries = [gallery(model, open_inputs(recipe, model, pairs)) for pairs in sets]
    test, hard = (measured(model, one, pairs.kinds) for one, pairs in zip(galleries, sets, strict=True))
    return {
        "row": row.name,
        "seed": seed,
        "recipe": _decisive(recipe.model_dump(mode="json")),
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": final,
        "curve": curve(folder / "metrics.jsonl"),
        "test": test,
        "hard": hard,
        "cost": cost(model, galleries[0]),
    }


def curve(log: Path) -> list[dict[str, float]]:
    """R@1 on validation by step."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [
        {"step": line["step"], "r1": line["validation"]["t2v"]["r1"]}
        for line in lines
        if "validation" in line
    ]


def measured(model: Any, seen: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Both directions of the method's own score, its coarse vectors alone, two stages, the index's search."""
    from vidsift.evaluation.metrics import ranks
    from vidsift.evaluation.scoring import staged
    from vidsift.training.validation import (
        all_scores,
        index_ranking,
        index_scores,
        text_to_video,
        video_to_text,
    )

    fine, coarse = all_scores(model, seen), all_scores(model, seen, "coarse")
    found = {
        "t2v": asdict(text_to_video(fine, seen.clip_of)),
        "v2t": asdict(video_to_text(fine, seen.clip_of)),
        "coarse": asdict(text_to_video(coarse, seen.clip_of)),
    }
    for k in CANDIDATES:
        found[f"k{k}"] = asdict(text_to_video(staged(coarse, fine, k), seen.clip_of))
    search = model.search
    first, _ = index_scores(model, seen, search.temperature)
    ranking = fine if search.own_score else index_ranking(model, seen, search)
    ranking = staged(first, ranking, search.candidates)
    found["index"] = asdict(text_to_video(ranking, seen.clip_of))
    found["index"]["candidates"] = search.candidates
    places, said = ranks(fine, seen.clip_of), np.asarray(kinds)
    found["r1_by_kind"] = {
        str(kind): float(100 * np.mean(places[said == kind] <= 1)) for kind in np.unique(said)
    }
    return found


def cost(model: Any, seen: Any, queries: int = 20) -> dict[str, float]:
    """CPU milliseconds per query, one at a time, over all clips and in two stages; bytes kept per clip."""
    import torch

    from scoring_cost import kept

    spent: dict[str, list[float]] = {"exhaustive_ms": [], "two_stage_ms": []}
    with torch.inference_mode():
        for number in range(queries):
            text = seen.text.select(slice(number, number + 1))
            began = time.process_time()
            model.similarity(text, seen.clips)
            middle = time.process_time()
            best = model.score("coarse", text, seen.clips)[0].topk(min(50, len(seen.clips))).indices
            model.similarity(text, seen.clips.select(best))
            spent["exhaustive_ms"].append(1e3 * (middle - began))
            spent["two_stage_ms"].append(1e3 * (time.process_time() - middle))
    _, stored = kept(model, seen.clips)
    return {name: float(np.median(times)) for name, times in spent.items()} | {"bytes": stored}


def run_all(bench: Bench, rows: Iterable[Row], seeds: Iterable[int], jobs: int) -> None:
    """Do what is missing: first rows without teachers, then the teachers' words, then the taught rows."""
    chosen = list(rows)
    missing = [Task(r.name, s) for s in seeds for r in chosen if bench.result(r.name, s) is None]
    taught = [task for task in missing if by_name(task.row).teachers]
    distil = sorted({Task(n, t.seed, True) for t in taught for n in by_name(t.row).teachers}, key=str)
    untrained = [Task(t.row, t.seed) for t in distil if bench.lacks(t.row, t.seed)]
    plain = untrained + [t for t in missing if t not in taught and t not in untrained]
    if not (bench.work / "features").is_dir():
        run_some(bench, plain[:1], 1)  # makes what the towers say, which all others read
        plain = plain[1:]
    for tasks in (plain, distil, taught):
        run_some(bench, tasks, jobs)


def run_some(bench: Bench, tasks: list[Task], jobs: int) -> None:
    """Do tasks that do not wait for each other, so many at once; the first that fails ends it."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(work_on, bench, task): task for task in tasks}
        for done, future in enumerate(as_completed(futures), 1):
            if error := future.exception():
                say(f"[{done}/{len(tasks)}] {futures[future]}: {error!r}")
                for waiting in futures:
                    waiting.cancel()
                raise error
            say(f"[{done}/{len(tasks)}] {future.result()}")


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "teaching", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of what was measured")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="steps of every run")
    parser.add_argument("--videos", type=int, help="training videos, for a quick look")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, a thread each")
    parser.add_argument("--rows", nargs="*", help="only these; then nothing is written")
    parser.add_argument("--report", action="store_true", help="only write the report of what there is")
    chosen = parser.parse_args()
    bench = Bench(chosen.work.resolve(), chosen.results.resolve(), chosen.steps, chosen.videos)
    rows = [by_name(name) for name in chosen.rows] if chosen.rows else list(ROWS)
    if not chosen.report:
        run_all(bench, rows, range(chosen.seeds), chosen.jobs)
    if not chosen.rows:
        from _teaching_report import write_report

        write_report(bench, range(chosen.seeds))


if __name__ == "__main__":
    main()
