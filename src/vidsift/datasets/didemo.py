"""DiDeMo (Hendricks et al., ICCV 2017), as paragraphs: all descriptions of a video are one text."""

from __future__ import annotations

import json
from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, line_of, read_ids, read_json
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place
from vidsift.errors import DataError

_ROLES: tuple[Role, ...] = ("train", "val", "test")
SECONDS = 31.0
"""Annotators saw the first half minute; the official loaders cut the clips there."""


def prepare(root: Path) -> Corpus:
    """Read the descriptions and, where they are, the lists that choose among their videos."""
    files, built = VideoFiles(root), CorpusBuilder()
    for role in _ROLES:
        said, listed = find(root, f"{role}_data.json"), find(root, f"{role}_list.txt")
        if said is None and listed is None:
            continue
        texts = {} if said is None else _descriptions(said)
        by_key = {_bare(name): text for name, text in texts.items()}
        videos, captions = [], []
        for name in list(texts) if listed is None else read_ids(listed):
            number = built.video(_bare(name), files.path(name, _bare(name)), 0.0, SECONDS)
            videos.append(number)
            if said is not None and _bare(name) in by_key:
                text = " ".join(by_key[_bare(name)])
                line = 1 if text.strip() else line_of(said, name)
                captions.append(built.caption(number, text, said, line))
        built.split(role, role, videos, captions, f"the captions are in {role}_data.json, which is missing")
    if not built.splits:
        raise DataError(f"{root}: holds none of *_data.json and *_list.txt for train, val, test")
    return built.build()


def _bare(name: str) -> str:
    """A video's name without the extension, which lists, annotations and disks spell differently."""
    return name.rpartition(".")[0] or name


def _descriptions(path: Path) -> dict[str, list[str]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: expected a list of descriptions")
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(k), str) for k in ("video", "description")
        ):
            raise DataError(f"{path}: entry {number} needs video and description, has {str(row)[:60]}")
        found.setdefault(row["video"], []).append(row["description"].strip())
    return found


def write_example(root: Path, examples: Examples) -> None:
    """Lay out with names as Flickr gave them, several descriptions a video, in the file's order."""
    suffixes = (".mov", ".mp4", ".avi", ".3gp", ".")
    for role, chosen in examples.items():
        names, rows = [], []
        for k, example in enumerate(chosen):
            names.append(f"1000{k}@N0{k % 10}_{role}_{k:010x}{suffixes[k % len(suffixes)]}")
            place(example.file, root / "videos" / names[-1])
            for number, (text, span) in enumerate(zip(example.captions, example.spans, strict=True)):
                times = [int(span[0] // 5), int(span[1] // 5)]
                rows.append(
                    {
                        "annotation_id": 10 * k + number,
                        "description": text,
                        "num_segments": 6,
                        "times": [times, times],
                        "video": names[-1],
                    }
                )
        (root / f"{role}_list.txt").write_text("\n".join(names))
        (root / f"{role}_data.json").write_text(json.dumps(rows))


DATASET = Dataset(
    name="didemo",
    title="DiDeMo",
    splits={role: role for role in _ROLES},
    train="train",
    test="test",
    prepare=prepare,
    write_example=write_example,
    homepage="https://github.com/LisaAnne/LocalizingMoments",
    licence="annotations BSD 2-Clause; the videos are Creative Commons, as Flickr says of each",
    files="train_data.json, val_data.json, test_data.json, with *_list.txt if fewer videos are meant",
    obtain="annotations: the homepage; videos: YFCC100M on AWS, with the homepage's script",
    paragraphs=True,
)
