"""Public data sets: real split files load with their published sizes, examples come back as written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from vidsift.datasets.catalogue import DATASETS, find_dataset, open_split
from vidsift.datasets.check import check_corpus, summary
from vidsift.datasets.corpus import write_manifest
from vidsift.datasets.dataset import Example
from vidsift.datasets.tables import read_table
from vidsift.errors import DataError

Examples = dict[str, list[Example]]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (
            "msrvtt",
            {
                "train-9k": 9000,
                "train-7k": 7010,
                "test-1ka": 1000,
                "train-full": 6513,
                "val-full": 497,
                "test-full": 2990,
            },
        ),
        ("msvd", {"train": 1200, "val": 100, "test": 670}),
        ("didemo", {"test": 1004}),
        ("activitynet", {"train": 10009, "val_1": 4917, "val_2": 4885}),
    ],
)
def test_real_split_files_have_their_published_sizes(name: str, sizes: dict[str, int], shared: Path) -> None:
    corpus = find_dataset(name).prepare(shared / name)
    assert {split: len(found.videos) for split, found in corpus.splits.items()} == sizes


@pytest.mark.shared
def test_the_check_finds_the_documented_overlaps_by_itself(shared: Path) -> None:
    found = check_corpus(find_dataset("msrvtt").prepare(shared / "msrvtt"), open_files=False)
    shares = {(o.first, o.second): (o.shared, o.leak) for o in found.overlaps}
    assert shares["train-9k", "test-full"] == (1990, True)
    assert shares["train-7k", "val-full"] == (497, True)
    assert shares["train-7k", "train-full"] == (6513, False)
    assert shares["test-1ka", "test-full"] == (1000, False)
    assert ("train-9k", "test-1ka") not in shares
    assert summary(found)["missing"] == 9000 + 7010 + 1000 + 6513 + 497 + 2990
    found = check_corpus(find_dataset("activitynet").prepare(shared / "activitynet"), open_files=False)
    (only,) = found.overlaps
    assert (only.first, only.second, only.shared, only.leak) == ("val_1", "val_2", 4885, False)


@pytest.mark.shared
def test_1ka_and_didemo_come_with_their_texts(shared: Path) -> None:
    _, corpus = open_split("msrvtt", shared / "msrvtt")
    assert len(corpus.captions) == len(corpus.videos) == 1000
    assert corpus.captions[0].text == "a person is connecting something to system"
    _, corpus = open_split("didemo", shared / "didemo")
    assert len(corpus.captions) == 1004
    assert all((v.start, v.end) == (0.0, 31.0) for v in corpus.videos)
    words = sum(len(c.text.split()) for c in corpus.captions) / 1004
    assert words > 20  # paragraphs, not sentences


@pytest.mark.parametrize("name", DATASETS)
def test_an_example_in_a_data_sets_own_layout_is_whole(name: str, examples: Examples, tmp_path: Path) -> None:
    dataset = find_dataset(name)
    dataset.write_example(tmp_path, examples)
    found = check_corpus(dataset.prepare(tmp_path))
    assert not found.broken, found
    by_name = {split.name: split for split in found.splits}
    assert (by_name[dataset.train].videos, by_name[dataset.test].videos) == (4, 3)
    assert by_name[dataset.train].captions >= 4
    leaks = {(o.first, o.second) for o in found.overlaps if o.leak}
    assert leaks == ({("train-7k", "val-full")} if name == "msrvtt" else set())
    _, corpus = open_split(name, tmp_path)
    texts = [e.captions[0] for e in examples["test"]]
    firsts = [next(c.text for c in corpus.captions if c.video == v) for v in range(3)]
    assert all(text in first for text, first in zip(texts, firsts, strict=True))


@pytest.mark.parametrize("name", DATASETS)
def test_windows_line_ends_and_byte_order_marks_change_nothing(
    name: str, examples: Examples, tmp_path: Path
) -> None:
    dataset = find_dataset(name)
    dataset.write_example(tmp_path, examples)
    before = dataset.prepare(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".csv", ".txt", ".json"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert dataset.prepare(tmp_path) == before


@pytest.mark.parametrize("name", DATASETS)
def test_trouble_on_the_disk_is_counted(name: str, examples: Examples, tmp_path: Path) -> None:
    dataset = find_dataset(name)
    dataset.write_example(tmp_path, examples)
    corpus = dataset.prepare(tmp_path)
    split = corpus.splits[dataset.test]
    gone, broken, copied, original = (
        corpus.videos[n].path for n in (*split.videos, corpus.splits[dataset.train].videos[0])
    )
    gone.unlink()
    broken.unlink()
    broken.write_bytes(b"not a video")
    copied.unlink()
    copied.write_bytes(original.read_bytes())
    found = check_corpus(dataset.prepare(tmp_path))
    test = {s.name: s for s in found.splits}[dataset.test]
    assert test.missing == (corpus.videos[split.videos[0]].id,)
    assert list(test.corrupt) == [str(broken)]
    assert len(found.doubled) == 1
    assert found.broken


def test_a_split_whose_files_are_absent_says_which(examples: Examples, tmp_path: Path) -> None:
    find_dataset("msrvtt").write_example(tmp_path, examples)
    (tmp_path / "annotations" / "MSRVTT_data.json").unlink()
    with pytest.raises(DataError, match=r"MSRVTT_data\.json, which is missing"):
        open_split("msrvtt", tmp_path, "train-9k")
    assert len(open_split("msrvtt", tmp_path)[1].captions) == 3  # 1k-A has its own sentences
    with pytest.raises(DataError, match="files for train-1kb are missing"):
        open_split("msrvtt", tmp_path, "train-1kb")
    with pytest.raises(DataError, match="no split '1ka'; it has train-9k"):
        open_split("msrvtt", tmp_path, "1ka")


def test_a_mistyped_name_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="did you mean msrvtt"):
        find_dataset("msr-vtt")


_REF = "ref_captions.json"
BROKEN = {
    "wrong column": (
        "msrvtt",
        "annotations/MSRVTT_train.9k.csv",
        "id\nvideo1\n",
        r"9k\.csv:1: needs .* video_id",
    ),
    "short row": (
        "msrvtt",
        "annotations/MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr1,video1,a dog\nret1,msr2\n",
        r"test\.csv:3: has not the 4 values",
    ),
    "asked twice": (
        "msrvtt",
        "annotations/MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr1,video1,a dog\nret1,msr1,video1,a cat\n",
        r"test\.csv:3: video1 is there twice",
    ),
    "truncated JSON": (
        "vatex",
        "ref_captions.json",
        '{"a": ["x"],\n "b": ["y"',
        r"s\.json:2: not JSON",
    ),
    "double key": (
        "vatex",
        "ref_captions.json",
        '{"a": ["x"],\n "a": ["y"]}',
        r"s\.json:2: a is there twice",
    ),
    "no list": (
        "vatex",
        "ref_captions.json",
        '{"a": ["x"],\n "b": "y"}',
        r"s\.json:2: expected a list",
    ),
    "duplicate id": (
        "msvd",
        "train_list.txt",
        "a\nb\n\na\n",
        r"list\.txt:4: a stands on line 1 already",
    ),
    "empty list": ("msvd", "train_list.txt", "\n\n", r"train_list\.txt: holds no ids"),
    "not text": ("msvd", "train_list.txt", b"a\n\xff\xfe\n", r"train_list\.txt:2: not UTF-8"),
    "few fields": ("lsmdc", "LSMDC16_annos_val.csv", "a\tb\tc\n", r"annos_val\.csv:1: needs 6 fields"),
    "no duration": (
        "activitynet",
        "train.json",
        '{"v_a":\n {"duration": 2, "sentences": ["x"]},\n"v_b": {"sentences": ["x"]}}',
        r"train\.json:3: v_b needs a duration",
    ),
    "no description": ("didemo", "val_data.json", '[{"video": "a.mov"}]', r"val_data\.json: entry 0 needs"),
    "unknown role": (
        "condensed-movies",
        "metadata/split.csv",
        "imdbid,split\ntt1,dev\n",
        r"split\.csv:2: split is 'dev'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_files_are_named_with_their_line(case: str, examples: Examples, tmp_path: Path) -> None:
    name, file, content, message = BROKEN[case]
    dataset = find_dataset(name)
    dataset.write_example(tmp_path, examples)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        dataset.prepare(tmp_path)


def test_a_pickle_that_would_run_something_is_refused(examples: Examples, tmp_path: Path) -> None:
    dataset = find_dataset("msvd")
    dataset.write_example(tmp_path, examples)
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(DataError, match=r"raw-captions\.pkl: not a pickle of plain values"):
        dataset.prepare(tmp_path)


@pytest.mark.parametrize("name", ["msrvtt", "vatex", "msvd", "lsmdc"])
def test_empty_captions_are_reported_where_they_stand(name: str, examples: Examples, tmp_path: Path) -> None:
    first = examples["train"][0]
    emptied = Example(first.file, ["", *first.captions[1:]], first.spans)
    dataset = find_dataset(name)
    dataset.write_example(tmp_path, examples | {"train": [emptied, *examples["train"][1:]]})
    if name == "lsmdc":
        path = tmp_path / "LSMDC16_annos_training.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0].rpartition("\t")[0] + "\t ", *lines[1:]]))
    found = check_corpus(dataset.prepare(tmp_path))
    split = {s.name: s for s in found.splits}[dataset.train]
    assert len(split.empty) == 1
    assert split.empty[0].endswith(":1")
    assert found.broken


def test_a_manifest_reads_back_as_the_same_clips(examples: Examples, tmp_path: Path) -> None:
    find_dataset("didemo").write_example(tmp_path / "d", examples)
    _, corpus = open_split("didemo", tmp_path / "d")
    write_manifest(corpus, tmp_path / "out.jsonl")
    again = read_table(tmp_path / "out.jsonl", Path("/elsewhere"))
    assert again.videos == tuple(corpus.videos)
    assert [c.text for c in again.captions] == [c.text for c in corpus.captions]
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["id"] == corpus.videos[0].id


def test_clips_without_captions_of_their_own_are_left_out_of_condensed_movies(
    examples: Examples, tmp_path: Path
) -> None:
    dataset = find_dataset("condensed-movies")
    dataset.write_example(tmp_path, examples)
    assert "copy-1" in (tmp_path / "metadata" / "clips.csv").read_text()
    assert all(not video.id.startswith("copy") for video in dataset.prepare(tmp_path).videos)
