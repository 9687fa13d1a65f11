"""`vidsift convert` from file to folder: the vocabulary it needs, its report, its refusals."""

import gzip
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from official import CHECKPOINTS, TINY, Sizes, clip, random_state, tokenizer
from safetensors.torch import load_file

from vidsift.cli.app import run
from vidsift.convert.core import find_family, from_official, to_official
from vidsift.convert.program import convert_file
from vidsift.convert.vocabulary import MERGES_FILE, find_tokenizer, read_merges
from vidsift.errors import ConversionError
from vidsift.models.loading import load_model

MERGES = ["t h", "th e</w>", "c a", "ca t</w>"]


@pytest.fixture
def merges_file(tmp_path: Path) -> Path:
    path = tmp_path / "bpe" / MERGES_FILE
    path.parent.mkdir()
    path.write_bytes(gzip.compress(("#version: 0.2\n" + "\n".join(MERGES) + "\n").encode()))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """TeachCLIP's, of the tiny vocabulary: 512 byte tokens, four merges, start and end."""
    size = Sizes(**{**TINY.__dict__, "vocabulary": 512 + len(MERGES) + 2})
    path = tmp_path / "published" / "best_model.bin"
    path.parent.mkdir()
    shapes = CHECKPOINTS["teachclip"][2](size) | {"similarity_dense.bias": (1,)}
    torch.save(random_state(shapes, dtype=torch.float16), path)
    return path


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def program(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["vidsift", "convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        run()
    return int(done.value.code or 0)


def test_a_checkpoint_becomes_a_model_folder_that_loads_and_says_so(
    checkpoint: Path,
    merges_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    arguments = (checkpoint, "--from", "teachclip", "--to", folder, "--tokenizer", merges_file, "--json")
    assert program(*arguments, monkeypatch=monkeypatch) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "teachclip"
    assert report["settings"]["layers"] == 2
    assert "frameLinear.weight" in report["mapped"]
    assert [s["key"] for s in report["skipped"]] == ["similarity_dense.bias"]
    model = load_model(str(folder))
    ids, mask = model.tokenize(["the  Cat"])
    assert ids.tolist() == [[516, 513, 515, 517]]
    frames = torch.randint(0, 255, (1, 3, 3, 12, 12), dtype=torch.uint8)
    score = model.similarity(
        model.encode_text(ids, mask), model.encode_video(frames, torch.ones(1, 3, dtype=torch.bool))
    )
    assert score.isfinite().all()


def test_the_readable_answer_names_what_was_skipped(
    checkpoint: Path,
    merges_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (checkpoint, "--from", "teachclip", "--to", tmp_path / "m", "--tokenizer", merges_file)
    assert program(*arguments, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "teachclip: 12 frames, 77 words" in out
    assert "similarity_dense.bias: a cross encoder" in out


def test_folder_to_official_and_back_gives_the_same_folder_bit_for_bit(
    checkpoint: Path, merges_file: Path, tmp_path: Path
) -> None:
    family = find_family("teachclip")
    first, second = tmp_path / "first", tmp_path / "second"
    convert_file(checkpoint, "teachclip", first, tokenizer=str(merges_file))
    torch.save(to_official(load_model(str(first)), family), tmp_path / "again.bin")
    convert_file(tmp_path / "again.bin", "teachclip", second, tokenizer=str(first))
    assert load_model(str(first)).fingerprint() == load_model(str(second)).fingerprint()
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert (first / "config.json").read_text() == (second / "config.json").read_text()


@pytest.mark.parametrize("name", ["clip4clip-seqLSTM", "clip4clip-tightTransf", "openai-clip"])
def test_every_head_survives_saving(name: str, tmp_path: Path) -> None:
    family, _, shapes = CHECKPOINTS[name]
    model, _ = from_official(random_state(shapes(TINY)), find_family(family), tokenizer(TINY.vocabulary))
    model.save_pretrained(tmp_path / "m")
    assert load_model(str(tmp_path / "m")).fingerprint() == model.fingerprint()


def test_without_a_vocabulary_the_message_offers_the_ways(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    code = program(checkpoint, "--from", "teachclip", "--to", folder, monkeypatch=monkeypatch)
    assert code == 3
    message = capsys.readouterr().err
    assert MERGES_FILE in message
    assert "--tokenizer FOLDER" in message
    assert "hf download openai/clip-vit-base-patch32 tokenizer.json" in message
    assert not folder.exists()


def test_a_vocabulary_beside_the_checkpoint_is_found(
    checkpoint: Path, merges_file: Path, tmp_path: Path
) -> None:
    merges_file.rename(checkpoint.parent / MERGES_FILE)
    assert convert_file(checkpoint, "teachclip", tmp_path / "m").method == "teachclip"


def test_a_vocabulary_in_the_local_cache_is_found(
    checkpoint: Path, merges_file: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "cache" / "models--openai--clip-vit-base-patch32"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    read_merges(merges_file).save(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert convert_file(checkpoint, "teachclip", tmp_path / "m").method == "teachclip"


def test_collaborative_experts_need_no_vocabulary_and_no_class_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("parse_config")
    module.ConfigParser = type("ConfigParser", (), {"__module__": "parse_config"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parse_config", module)
    config = module.ConfigParser()
    config.save_dir, config.resume = tmp_path, None
    path = tmp_path / "trained_model.pth"
    held = {
        "arch": "CENet",
        "epoch": 9,
        "state_dict": random_state(CHECKPOINTS["ce"][2](TINY)),
        "config": config,
    }
    torch.save(held, path, _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, "parse_config")
    report = convert_file(path, "ce", tmp_path / "m")
    assert report.method == "ce"
    assert load_model(str(tmp_path / "m")).method == "ce"


def test_an_x_pool_trained_with_openai_s_clip_converts_too() -> None:
    shapes = {k: v for k, v in CHECKPOINTS["xpool"][2](TINY).items() if k.startswith("pool_frames.")}
    state = random_state(clip(TINY) | shapes)
    model, report = from_official(state, find_family("xpool"), tokenizer(TINY.vocabulary))
    assert model.method == "xpool"
    assert set(report.mapped) == set(state)
    assert torch.equal(model.backbone.model.text_projection.weight, state["clip.text_projection"].T)


def test_refusals_name_file_and_key_and_write_nothing(
    checkpoint: Path, merges_file: Path, tmp_path: Path
) -> None:
    vocabulary, folder = str(merges_file), tmp_path / "m"
    with pytest.raises(ConversionError, match=r"best_model\.bin: .*--from teachclip"):
        convert_file(checkpoint, "clip4clip", folder, tokenizer=vocabulary)
    with pytest.raises(ConversionError, match=r"clip9clip.*teachclip"):
        convert_file(checkpoint, "clip9clip", folder, tokenizer=vocabulary)
    with pytest.raises(ConversionError, match="nowhere"):
        convert_file(checkpoint, "teachclip", folder, tokenizer="nowhere")
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(ConversionError, match="exists already"):
        convert_file(checkpoint, "teachclip", folder, tokenizer=vocabulary)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]


def test_merges_give_openai_s_ids(merges_file: Path) -> None:
    tokenizer = read_merges(merges_file)
    ids, _ = tokenizer(["the cat, THE cats é"])
    start, end = 516, 517
    letters = {chr(b): i for i, b in enumerate([*range(33, 127), *range(161, 173), *range(174, 256)])}
    ca, closed = 514, 256
    # "cats" stops at the merge "ca"; "é" is two bytes, both of which have printable stand-ins.
    tail = [ca, letters["t"], letters["s"] + closed, letters["Ã"], letters["©"] + closed]
    assert ids[0].tolist() == [start, 513, 515, letters[","] + closed, 513, *tail, end]


@pytest.mark.parametrize("text", ["", "#version\n", "#version\na b c\n", "#version\na b\na b\n"])
def test_a_file_that_is_no_merges_list_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt"
    path.write_text(text)
    with pytest.raises(ConversionError, match=r"bpe\.txt"):
        find_tokenizer(str(path), tmp_path)
