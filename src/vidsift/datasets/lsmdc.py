"""LSMDC (Rohrbach et al., IJCV 2017): short film clips with audio descriptions."""

from __future__ import annotations

import csv
from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, read_text
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place
from vidsift.errors import DataError

_FILES: dict[Role, str] = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
_FIELDS = 6


def prepare(root: Path) -> Corpus:
    """Read the tab-separated files; a clip that a file names several times has several captions."""
    files, built = VideoFiles(root), CorpusBuilder()
    for role, name in _FILES.items():
        path = find(root, name)
        if path is None:
            continue
        videos: dict[int, None] = {}
        captions = []
        rows = csv.reader(read_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        for line, row in enumerate(rows, 1):
            if not row:
                continue
            if len(row) != _FIELDS:
                raise DataError(f"{path}:{line}: needs {_FIELDS} fields between tabs, has {len(row)}")
            clip = row[0].strip()
            number = built.video(clip, files.path(f"{clip}.avi", clip))
            if role == "test" and number in videos:
                raise DataError(f"{path}:{line}: {clip} is there twice; the test has one sentence per clip")
            videos[number] = None
            captions.append(built.caption(number, row[5], path, line))
        if not captions:
            raise DataError(f"{path}: holds no clips")
        built.split(role, role, videos, captions)
    if not built.splits:
        raise DataError(f"{root}: holds none of {', '.join(_FILES.values())}")
    return built.build()


def write_example(root: Path, examples: Examples) -> None:
    """Lay out in a folder per film; the first training clip has its captions on lines of their own."""
    for role, chosen in examples.items():
        lines = []
        for k, example in enumerate(chosen):
            film, times = f"00{k % 3:02d}_Some_Film", (f"00.0{k}.10.000", f"00.0{k}.13.500")
            clip = f"{film}_{role}_{times[0]}-{times[1]}"
            place(example.file, root / "avi" / film / f"{clip}.avi")
            said = example.captions if role == "train" and k == 0 else example.captions[:1]
            lines += ["\t".join([clip, *times, *times, f"SOMEONE sees {text}."]) for text in said]
        (root / _FILES[role]).write_text("\n".join(lines))


DATASET = Dataset(
    name="lsmdc",
    title="LSMDC",
    splits={role: role for role in _FILES},
    train="train",
    test="test",
    prepare=prepare,
    write_example=write_example,
    homepage="https://sites.google.com/site/describingmovies/",
    licence="on request, for research only",
    files=", ".join(_FILES.values()),
    obtain="annotations and clips: after signing the agreement of the homepage",
)
