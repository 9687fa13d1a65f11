"""VATEX (Wang et al., ICCV 2019): ten-second clips with ten English captions each."""

from __future__ import annotations

import json
from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, line_of, read_ids, read_json
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.msrvtt import add_captioned, add_sentences
from vidsift.datasets.writing import place
from vidsift.errors import DataError

_CAPTIONS, _DOCUMENT = "ref_captions.json", "VATEX_data.json"
_SPLITS: dict[str, tuple[Role, tuple[str, ...]]] = {
    "train": ("train", ("train_list.txt", "VATEX_train.csv")),
    "val": ("val", ("val_list.txt", "val_list_split1.txt", "VATEX_val.csv")),
    "val-2": ("val", ("val_list_split2.txt",)),
    "test": ("test", ("test_list.txt", "VATEX_test.csv")),
}


def prepare(root: Path) -> Corpus:
    """Read the layout of HGR and TS2-Net (lists and ref_captions.json) or TeachCLIP's (VATEX_*.csv)."""
    files, built = VideoFiles(root), CorpusBuilder()
    path = find(root, _CAPTIONS, _DOCUMENT)
    if path is not None:
        _read_captions(path, files, built)
    for split, (role, names) in _SPLITS.items():
        listed = find(root, *names)
        if listed is None:
            continue
        if listed.name in ("VATEX_val.csv", "VATEX_test.csv"):
            add_captioned(built, files, split, role, listed)
            continue
        videos = [built.video(name, files.path(name)) for name in read_ids(listed)]
        lacking = f"the captions are in {_CAPTIONS} or {_DOCUMENT}, which is missing"
        built.split(split, role, videos, lacking=lacking)
    if not built.splits:
        wanted = ", ".join(name for _, names in _SPLITS.values() for name in names)
        raise DataError(f"{root}: holds none of VATEX's lists: {wanted}")
    return built.build()


def _read_captions(path: Path, files: VideoFiles, built: CorpusBuilder) -> None:
    found = read_json(path)
    if path.name == _DOCUMENT:
        rows = found.get("sentences") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path}:1: needs an object with the list `sentences`")
        add_sentences(path, rows, files, built)
        return
    if not isinstance(found, dict):
        raise DataError(f"{path}:1: expected captions by video id")
    for name, captions in found.items():
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{path}:{line_of(path, name)}: expected a list of sentences for {name}")
        number = built.video(name, files.path(name))
        for text in captions:
            built.caption(number, text, path, line_of(path, name) if not text.strip() else 1)


def write_example(root: Path, examples: Examples) -> None:
    """Lay out as lists beside ref_captions.json; ids end in six-digit seconds, as VATEX's do."""
    said = {}
    for role, chosen in examples.items():
        names = [f"{role}Video{k:02d}_000010_000020" for k in range(len(chosen))]
        for name, example in zip(names, chosen, strict=True):
            place(example.file, root / "videos" / f"{name}.mp4")
            said[name] = list(example.captions)
        (root / f"{role}_list.txt").write_text("\n".join(names))
    (root / _CAPTIONS).write_text(json.dumps(said))


DATASET = Dataset(
    name="vatex",
    title="VATEX",
    splits={split: role for split, (role, _) in _SPLITS.items()},
    train="train",
    test="test",
    prepare=prepare,
    write_example=write_example,
    homepage="https://eric-xw.github.io/vatex-website/",
    licence="annotations CC BY 4.0; the clips belong to their uploaders",
    files=f"train_list.txt, val_list.txt, test_list.txt, {_CAPTIONS}; or VATEX_*.csv, {_DOCUMENT}",
    obtain="annotations: the homepage; the retrieval splits are those of HGR (Chen et al., CVPR 2020)",
    notes=("TS2-Net and others call the test list validation: do not select on it.",),
)
