"""Tables of videos and captions: any of the usual column names, and every bad row is named by its line."""

from pathlib import Path

import pytest

from vidsift.datasets.corpus import Video
from vidsift.datasets.tables import read_table
from vidsift.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_of_two_columns_is_read_in_order(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", 'video,caption\nx.mp4,"a red, round ball"\ny.mp4,a dog\nx.mp4,a ball\n')
    corpus = read_table(table, tmp_path / "videos")
    assert [video.path for video in corpus.videos] == [tmp_path / "videos" / n for n in ("x.mp4", "y.mp4")]
    assert [(c.video, c.text, c.line) for c in corpus.captions] == [
        (0, "a red, round ball", 2),
        (1, "a dog", 3),
        (0, "a ball", 4),
    ]


@pytest.mark.parametrize("names", ["path,text", "Video_ID , Sentence", "file,caption"])
def test_columns_go_by_their_usual_names(names: str, tmp_path: Path) -> None:
    corpus = read_table(write(tmp_path / "a.csv", f"{names}\nx.mp4,a dog\n"), tmp_path)
    assert corpus.captions[0].text == "a dog"


def test_a_jsonl_may_name_parts_of_a_file(tmp_path: Path) -> None:
    lines = (
        '{"video": "x.mp4", "caption": "a", "start": 1, "end": 2.5}\n\n'
        '{"video": "x.mp4", "caption": "b", "start": 2.5, "other": [1]}\n'
    )
    corpus = read_table(write(tmp_path / "a.jsonl", lines), tmp_path)
    assert corpus.videos == (
        Video(tmp_path / "x.mp4", 1.0, 2.5),
        Video(tmp_path / "x.mp4", 2.5, None),
    )
    assert [c.line for c in corpus.captions] == [1, 3]


def test_a_name_without_suffix_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "video7.webm").touch()
    corpus = read_table(write(tmp_path / "a.csv", "video,caption\nvideo7,a dog\nvideo8,a cat\n"), tmp_path)
    assert [video.path.name for video in corpus.videos] == ["video7.webm", "video8"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "clip,words\nx,y\n", r"a\.csv:2: needs the columns video and caption, found clip, words"),
        ("a.csv", "video,caption\n", r"a\.csv: holds no captions"),
        ("a.csv", "", r"a\.csv: holds no captions"),
        ("a.csv", "video,caption\n,a dog\n", r"a\.csv:2: needs"),
        ("a.csv", "video,caption,start\nx.mp4,a dog,soon\n", r"a\.csv:2: start is 'soon'"),
        ("a.csv", "video,caption,start,end\nx.mp4,a dog,5,4\n", r"a\.csv:2: the clip ends at 4\.0 s"),
        ("a.csv", "video,caption,start\nx.mp4,a dog,-1\n", r"a\.csv:2: start is '-1'"),
        ("a.jsonl", '{"video": "x.mp4"\n', r"a\.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"video": "x.mp4", "caption": 3}\n', r"a\.jsonl:1: needs"),
    ],
)
def test_a_bad_table_is_refused_by_file_and_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / name, text), tmp_path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        read_table(tmp_path / "none.csv", tmp_path)
    (tmp_path / "b.csv").write_bytes(b"video,caption\n\xff\xfe\x00,x\n")
    with pytest.raises(DataError, match=r"b\.csv"):
        read_table(tmp_path / "b.csv", tmp_path)
