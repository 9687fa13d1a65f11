"""ActivityNet Captions (Krishna et al., ICCV 2017), as paragraphs: all sentences of a video are one text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vidsift.datasets.annotations import VideoFiles, find, line_of, read_ids, read_json
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place
from vidsift.errors import DataError

_SPLITS: dict[str, tuple[Role, tuple[str, ...], str]] = {
    "train": ("train", ("train_ids.json", "train_list.txt"), "train.json"),
    "val_1": ("test", ("val_ids.json", "val_1_list.txt"), "val_1.json"),
    "val_2": ("test", ("val_2_list.txt",), "val_2.json"),
}


def prepare(root: Path) -> Corpus:
    """Read the id lists and the captions; a clip lasts from 0 to its duration, rounded up."""
    files, built = VideoFiles(root), CorpusBuilder()
    for split, (role, names, document) in _SPLITS.items():
        said = find(root, document)
        listed = find(root, *names)
        if said is None and listed is None:
            continue
        entries = {} if said is None else _entries(said)
        ids = list(entries) if listed is None else read_ids(listed)
        videos, captions = [], []
        for name in ids:
            bare = name.removeprefix("v_")
            entry = entries.get(name)
            end = None if entry is None else float(math.ceil(entry["duration"]))
            # The two validation sets caption the same videos in other words.
            number = built.video(name, files.path(f"v_{bare}", bare), None if end is None else 0.0, end)
            videos.append(number)
            if entry is not None and said is not None:
                text = " ".join(sentence.strip() for sentence in entry["sentences"])
                line = 1 if text.strip() else line_of(said, name)
                captions.append(built.caption(number, text, said, line))
        built.split(split, role, videos, captions, f"the captions are in {document}, which is missing")
    if not built.splits:
        raise DataError(f"{root}: holds neither train.json, val_1.json nor ActivityNet's id lists")
    return built.build()


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}:1: expected an object of videos by id")
    for name, entry in found.items():
        good = (
            isinstance(entry, dict)
            and isinstance(entry.get("duration"), int | float)
            and entry["duration"] > 0
            and isinstance(entry.get("sentences"), list)
            and all(isinstance(text, str) for text in entry["sentences"])
        )
        if not good:
            raise DataError(f"{path}:{line_of(path, name)}: {name} needs a duration and a list of sentences")
    return found


def write_example(root: Path, examples: Examples) -> None:
    """Lay out train and test as train and val_1, a paragraph of two sentences a video; val becomes val_2."""
    splits: dict[Role, tuple[str, str]] = {
        "train": ("train", "train_ids.json"),
        "test": ("val_1", "val_ids.json"),
        "val": ("val_2", "val_2_list.txt"),
    }
    for role, chosen in examples.items():
        split, listed = splits[role]
        said = {}
        for k, example in enumerate(chosen):
            name = f"v_{role}{k:08d}"
            place(example.file, root / "videos" / f"{name}.mp4")
            said[name] = {
                "duration": 5.7,
                "timestamps": [list(span) for span in example.spans[:2]],
                "sentences": [f" {text}." for text in example.captions[:2]],
            }
        (root / f"{split}.json").write_text(json.dumps(said))
        names = list(said)
        (root / listed).write_text(json.dumps(names) if listed.endswith("json") else "\n".join(names))


DATASET = Dataset(
    name="activitynet",
    title="ActivityNet Captions",
    splits={split: role for split, (role, _, _) in _SPLITS.items()},
    train="train",
    test="val_1",
    prepare=prepare,
    write_example=write_example,
    homepage="https://cs.stanford.edu/people/ranjaykrishna/densevid/",
    licence="annotations for research use; the videos belong to their uploaders",
    files="train.json, val_1.json, val_2.json, with train_ids.json, val_ids.json if fewer videos are meant",
    obtain="captions: captions.zip from the homepage; videos: from the ActivityNet organisers on request",
    paragraphs=True,
    notes=("There is no other test set than val_1: keep a part of train for selection.",),
)
