"""Every data set by its name, and how a split of any of them is opened."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from vidsift.datasets import activitynet, condensed_movies, didemo, lsmdc, msrvtt, msvd, vatex
from vidsift.datasets.corpus import Corpus
from vidsift.datasets.dataset import Dataset
from vidsift.datasets.tables import read_table
from vidsift.errors import DataError

DATASETS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET
    for module in (msrvtt, msvd, vatex, activitynet, didemo, lsmdc, condensed_movies)
}
TABLES = ("csv", "jsonl")
"""Anyone's own data: the split is then the path of a table."""


def find_dataset(name: str) -> Dataset:
    """A data set by its name.  Raises DataError with a suggestion."""
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DATASETS)}"
        raise DataError(f"no data set {name!r}: {hint}")
    return DATASETS[name]


def open_split(name: str, root: Path, split: str | None = None) -> tuple[str, Corpus]:
    """One split of a data set with its name; without one, the data set's test split.

    name: of a data set, or `csv` or `jsonl`, whose `split` is the path of a table.
    Raises DataError naming what is missing, and file and line of what cannot be read.
    """
    if name in TABLES:
        if split is None:
            raise DataError(f"{name}: name the table as the split")
        table = Path(split)
        return table.stem, read_table(table, root)
    dataset = find_dataset(name)
    chosen = split or dataset.test
    if chosen not in dataset.splits:
        raise DataError(f"{dataset.title} has no split {chosen!r}; it has {', '.join(dataset.splits)}")
    corpus = dataset.prepare(root)
    if chosen not in corpus.splits:
        raise DataError(f"{root}: {dataset.title}'s files for {chosen} are missing; they are {dataset.files}")
    return chosen, corpus.only(chosen)
