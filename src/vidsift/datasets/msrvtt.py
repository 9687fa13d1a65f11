"""MSR-VTT (Xu et al., CVPR 2016): 10,000 clips, 20 captions each, and the splits that papers mean by it."""

from __future__ import annotations

import json
from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, line_of, read_ids, read_json, read_rows
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place, write_csv
from vidsift.errors import DataError

CAPTIONS = "MSRVTT_data.json"
_ONE_EACH = "MSRVTT_JSFUSION_test.csv"
# split -> role and the files that may name its videos.
_LISTS: dict[str, tuple[Role, tuple[str, ...]]] = {
    "train-9k": ("train", ("MSRVTT_train.9k.csv", "train_list_jsfusion.txt")),
    "train-7k": ("train", ("MSRVTT_train.7k.csv",)),
    "test-1ka": ("test", (_ONE_EACH, "val_list_jsfusion.txt")),
    "train-full": ("train", ("train_list_full.txt",)),
    "val-full": ("val", ("val_list_full.txt", "MSRVTT_full_split_val.csv")),
    "test-full": ("test", ("test_list_full.txt", "MSRVTT_full_split_test.csv")),
    "train-1kb": ("train", ("train_list_miech.txt",)),
    "test-1kb": ("test", ("test_list_miech.txt",)),
}


def prepare(root: Path) -> Corpus:
    """Read whichever of the lists and of the caption files lie in the folder."""
    files, built = VideoFiles(root), CorpusBuilder()
    document = find(root, CAPTIONS)
    if document is not None:
        _read_document(document, files, built)
    for split, (role, names) in _LISTS.items():
        path = find(root, *names)
        if path is None:
            continue
        if path.name == _ONE_EACH or path.name.startswith("MSRVTT_full_split"):
            add_captioned(built, files, split, role, path)
            continue
        videos = [built.video(name, files.path(name)) for name in read_ids(path)]
        # 1k-A asks one sentence per video, which only its own file tells.
        lacking = f"the captions are in {_ONE_EACH if split == 'test-1ka' else CAPTIONS}, which is missing"
        built.split(split, role, videos, () if split == "test-1ka" else None, lacking)
    if not built.splits:
        wanted = ", ".join(name for _, names in _LISTS.values() for name in names)
        raise DataError(f"{root}: holds none of MSR-VTT's lists: {wanted}")
    return built.build()


def add_captioned(built: CorpusBuilder, files: VideoFiles, split: str, role: Role, path: Path) -> None:
    """A split from a csv with the columns video_id and sentence, one row per caption."""
    videos: dict[int, None] = {}
    captions = []
    for line, row in read_rows(path, ["video_id", "sentence"]):
        name = row["video_id"].strip()
        if not name:
            raise DataError(f"{path}:{line}: has no video_id")
        number = built.video(name, files.path(name))
        if path.name == _ONE_EACH and number in videos:
            raise DataError(f"{path}:{line}: {name} is there twice; 1k-A asks one sentence per video")
        videos[number] = None
        captions.append(built.caption(number, row["sentence"], path, line, pooled=False))
    if not captions:
        raise DataError(f"{path}: holds no rows")
    built.split(split, role, videos, captions)


def _read_document(path: Path, files: VideoFiles, built: CorpusBuilder) -> None:
    document = read_json(path)
    rows = document.get("sentences") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: needs an object with the list `sentences`")
    add_sentences(path, rows, files, built)


def add_sentences(path: Path, rows: list[object], files: VideoFiles, built: CorpusBuilder) -> None:
    """Captions from a JSON list of objects with video_id and caption."""
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("video_id", "caption")):
            raise DataError(f"{path}: sentences[{number}] needs video_id and caption, has {str(row)[:60]}")
        name, text = row["video_id"], row["caption"]
        # Looked up only where a message will need it: the file has 200,000 sentences.
        line = line_of(path, name) if not text.strip() else 1
        built.caption(built.video(name, files.path(name)), text, path, line)


def write_example(root: Path, examples: Examples) -> None:
    """Lay out train, val and test as 9k and 7k training, full validation, 1k-A and full test."""
    names: dict[Role, list[str]] = {}
    sentences, videos, number = [], [], 0
    for role, chosen in examples.items():
        names[role] = []
        for example in chosen:
            name = f"video{number}"
            number += 1
            names[role].append(name)
            place(example.file, root / "videos" / f"{name}.mp4")
            videos.append({"video_id": name, "url": f"https://example.org/watch?v={name}"})
            sentences += [{"video_id": name, "caption": text} for text in example.captions]
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CAPTIONS).write_text(json.dumps({"videos": videos, "sentences": sentences}))
    write_csv(folder / "MSRVTT_train.9k.csv", ["video_id"], [[n] for n in names["train"]])
    write_csv(folder / "MSRVTT_train.7k.csv", ["video_id"], [[n] for n in names["train"] + names["val"]])
    for role, split in (("train", "train"), ("val", "val"), ("test", "test")):
        (folder / f"{split}_list_full.txt").write_text("\n".join(names[role]))
    rows = [
        [f"ret{k}", f"msr{k}", name, example.captions[0]]
        for k, (name, example) in enumerate(zip(names["test"], examples["test"], strict=True))
    ]
    write_csv(folder / _ONE_EACH, ["key", "vid_key", "video_id", "sentence"], rows)


DATASET = Dataset(
    name="msrvtt",
    title="MSR-VTT",
    splits={split: role for split, (role, _) in _LISTS.items()},
    train="train-9k",
    test="test-1ka",
    prepare=prepare,
    write_example=write_example,
    homepage="https://cove.thecvf.com/datasets/839",
    licence="research use; the clips belong to their uploaders",
    files=f"{CAPTIONS}, MSRVTT_train.9k.csv, MSRVTT_train.7k.csv, {_ONE_EACH}, or the id lists of "
    "Collaborative Experts (*_list_full.txt, *_list_jsfusion.txt, *_list_miech.txt)",
    obtain="annotations and videos: the release linked from the CLIP4Clip and Frozen in Time repositories; "
    "videos as <video_id>.mp4 anywhere below the folder",
    notes=(
        "9k training holds 1,990 of the 2,990 full-test videos: never evaluate a 9k model on test-full.",
        "7k training is full training and full validation together: do not select on val-full with it.",
    ),
)
