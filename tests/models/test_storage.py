"""Model folders: what is saved comes back, Hugging Face folders load, broken ones say what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from vidsift.errors import ModelFormatError
from vidsift.models import RetrievalModel, SearchWeights, load_model
from vidsift.models.preprocess import CLIP_MEAN, CLIP_STD, PreprocessSpec, read_preprocess
from vidsift.models.storage import read_model
from vidsift.models.text import TextTokenizer
from vidsift.video.types import Geometry

Make = Callable[..., RetrievalModel]
Folder = Callable[..., Path]
FAMILIES = pytest.mark.parametrize("family", ["clip", "metaclip_2", "siglip", "siglip2"])
HALF = (0.5, 0.5, 0.5)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- our folders --------------------------------------------------------------------------------------


@FAMILIES
@torch.inference_mode()
def test_every_family_comes_back_bit_for_bit(
    family: str, make_model: Make, frames: Any, tmp_path: Path
) -> None:
    model = make_model(family=family, search=SearchWeights(0.3, 0.7, 0.05))
    model.save_pretrained(tmp_path / "m")
    again = read_model(tmp_path / "m")
    assert again.search == SearchWeights(0.3, 0.7, 0.05)
    assert again.preprocess == model.preprocess
    assert again.max_words == model.max_words
    assert again.backbone.pad_id == model.backbone.pad_id
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(
        again.encode_video(frames(2, 3), mask).frames, model.encode_video(frames(2, 3), mask).frames
    )
    texts = ["a red star", ""]
    assert (again.encode_queries(texts) == model.encode_queries(texts)).all()


def test_saving_twice_writes_the_same_bytes(make_model: Make, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "a")
    read_model(tmp_path / "a").save_pretrained(tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_half_precision_storage_halves_the_file_and_is_its_own_stable_model(
    make_model: Make, tmp_path: Path
) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    half = read_model(tmp_path / "half")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert half.fingerprint() != model.fingerprint()
    half.save_pretrained(tmp_path / "again", dtype=torch.float16)
    half.save_pretrained(tmp_path / "wide")
    assert read_model(tmp_path / "again").fingerprint() == half.fingerprint()
    assert read_model(tmp_path / "wide").fingerprint() == half.fingerprint()


def test_a_loaded_model_can_be_trained(make_model: Make, frames: Any, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "m")
    model = read_model(tmp_path / "m")
    model.encode_video(frames(1, 2), torch.ones(1, 2, dtype=torch.bool)).coarse.sum().backward()
    assert all(p.requires_grad for p in model.parameters())
    assert model.backbone.model.visual_projection.weight.grad is not None


def test_from_pretrained_refuses_another_method(make_model: Make, tmp_path: Path) -> None:
    model = make_model("meanp")
    model.save_pretrained(tmp_path / "m")
    assert type(type(model).from_pretrained(tmp_path / "m")) is type(model)
    with pytest.raises(ModelFormatError, match="'meanp', not a SeqLSTM"):
        type(make_model("seqlstm")).from_pretrained(tmp_path / "m")


def test_saved_tokenizer_loads_in_transformers_too(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "m")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")(
        ["a red star", ""], padding=True, return_tensors="pt"
    )
    ids, mask = model.tokenize(["a red star", ""])
    assert torch.equal(theirs["input_ids"], ids)
    assert torch.equal(theirs["attention_mask"].bool(), mask)


def test_tokens_are_padded_to_the_longest_text_and_cut_before_eos(make_model: Make) -> None:
    model = make_model()
    ids, mask = model.tokenize(["a red star", "", "sky"])
    assert ids.tolist()[1] == [2, 3, 0, 0, 0]
    assert mask.sum(1).tolist() == [5, 2, 3]
    ids, _ = model.tokenize(["red " * 50])
    assert ids.shape == (1, model.max_words)
    assert ids[0, -1] == 3
    assert model.tokenize([])[0].shape == (0, 1)


# -- the fingerprint ----------------------------------------------------------------------------------


def test_fingerprint_names_weights_and_settings_but_not_name_or_ranking(make_model: Make) -> None:
    model = make_model()
    same = make_model(search=SearchWeights(0.9, 0.1))
    same.name = "another"
    assert len(model.fingerprint()) == 16
    assert same.fingerprint() == model.fingerprint()
    others = [make_model(seed=1), make_model(frames_per_clip=8), make_model(relevance_temperature=0.2)]
    others += [make_model("seqlstm"), make_model(family="metaclip_2")]
    assert len({m.fingerprint() for m in [model, *others]}) == 6


def test_fingerprint_sees_one_changed_weight(make_model: Make) -> None:
    model = make_model()
    before = model.fingerprint()
    with torch.no_grad():
        model.backbone.model.text_projection.weight[0, 0] += 1e-4
    assert model.fingerprint() != before


# -- plain Hugging Face folders -------------------------------------------------------------------------


@FAMILIES
@torch.inference_mode()
def test_a_plain_folder_loads_as_the_backbone_of_mean_pooling(
    family: str, hub_folder: Folder, make_backbone: Any, frames: Any
) -> None:
    model = read_model(hub_folder(family))
    assert model.method == "meanp"
    assert model.name == "plain"
    assert not model.training
    assert model.preprocess.mean == HALF
    assert model.preprocess.geometry == Geometry(32, "squash" if family.startswith("siglip") else "crop")
    reference = make_backbone(family)
    reference.load_state_dict(model.backbone.state_dict())
    assert model.encode_queries(["a red star"]).shape == (1, model.width)
    own = read_model(hub_folder(family)).backbone.encode_frames(frames(2)).frames
    assert torch.equal(own, model.backbone.encode_frames(frames(2)).frames)


def test_a_bin_checkpoint_loads_and_equals_its_safetensors(hub_folder: Folder) -> None:
    folder = hub_folder()
    expected = read_model(folder).fingerprint()
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert read_model(folder).fingerprint() == expected


class Payload:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_bin_checkpoint_with_code_is_refused_and_not_run(hub_folder: Folder, tmp_path: Path) -> None:
    folder = hub_folder()
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "pwned")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match=r"plain: the \.bin holds more than weights"):
        read_model(folder)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_weight_is_named_instead_of_filled_in(hub_folder: Folder) -> None:
    folder = hub_folder()
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFormatError, match=r"1 weights are missing, first 'visual_projection\.weight'"):
        read_model(folder)


def test_a_tokenizer_that_ends_otherwise_than_the_tower_expects_is_refused(hub_folder: Folder) -> None:
    folder = hub_folder()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFormatError, match=r"ends texts with \[3\], the model looks for 9"):
        read_model(folder)


def test_the_old_eos_slip_of_published_configurations_is_accepted(hub_folder: Folder) -> None:
    folder = hub_folder()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    assert read_model(folder).method == "meanp"


@pytest.mark.parametrize(
    ("tokenizer_class", "clean"),
    [("SiglipTokenizer", "a red star"), ("GemmaTokenizerFast", "a, red star!")],
)
def test_siglip_texts_are_cleaned_as_in_training(
    tokenizer_class: str, clean: str, hub_folder: Folder
) -> None:
    folder = hub_folder("siglip")
    edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    model = read_model(folder)
    assert model.tokenizer.clean("A, Red  Star!".replace("  ", " ")) == clean
    model.save_pretrained(folder / "ours")
    assert read_model(folder / "ours").tokenizer.cleaning == model.tokenizer.cleaning


# -- preprocessing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (
            {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            "crop",
        ),
        ({"size": 32, "do_center_crop": True, "crop_size": 32}, "crop"),
        ({"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32}, "crop"),
        ({"size": {"height": 32, "width": 32}}, "squash"),
        ({"image_processor": {"size": {"height": 32, "width": 32}}}, "squash"),
    ],
)
def test_published_forms_of_the_preprocessor_file_are_understood(
    values: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    inner = values.get("image_processor", values)
    inner |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    name = "processor_config.json" if "image_processor" in values else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(values))
    found = read_preprocess(tmp_path, PreprocessSpec(32))
    assert found == PreprocessSpec(32, mode, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_without_a_preprocessor_file_the_family_s_values_hold(hub_folder: Folder) -> None:
    folder = hub_folder()
    (folder / "preprocessor_config.json").unlink()
    assert read_model(folder).preprocess == PreprocessSpec(32, "crop", CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("size", [{"height": 64, "width": 64}, {"height": 32, "width": 64}])
def test_pictures_that_the_model_cannot_take_are_refused(size: dict[str, int], hub_folder: Folder) -> None:
    folder = hub_folder("siglip")
    edit(folder / "preprocessor_config.json", size=size)
    with pytest.raises(ModelFormatError, match="64"):
        read_model(folder)


def test_older_tokenizer_files_of_clip_give_the_same_ids_as_the_new_one(hub_folder: Folder) -> None:
    """vocab.json and merges.txt, as the first CLIP repositories held them."""
    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *(c + "</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    folder = hub_folder()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    tokenizer = TextTokenizer.from_folder(folder, max_length=8)
    ids, mask = tokenizer(["Red a", ""])
    bos, eos = len(tokens) - 2, len(tokens) - 1
    assert ids[0].tolist() == [bos, tokens.index("red</w>"), tokens.index("a</w>"), eos]
    assert ids[1].tolist() == [bos, eos, tokenizer.pad_id, tokenizer.pad_id]
    assert mask.sum(1).tolist() == [4, 2]
    tokenizer.save(folder)
    assert torch.equal(TextTokenizer.from_folder(folder, max_length=8)(["Red a", ""])[0], ids)


# -- broken folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vidsift": 99}, "format 99"),
        ({"search": {"coarse": 1}}, "coarse"),
        ({"method_config": {"wings": 2}}, "wings"),
        ({"preprocess": {}}, "size"),
        ({"backbone": {"model_type": "bert"}}, "bert"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(
    changes: dict[str, Any], message: str, make_model: Make, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", **changes)
    with pytest.raises(ModelFormatError, match=message):
        read_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_file_is_named(name: str, damage: str, make_model: Make, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x80garbage")
    with pytest.raises(ModelFormatError, match=name):
        read_model(tmp_path / "m")


def test_weights_of_another_shape_are_refused_with_the_key(make_model: Make, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    weights = load_file(path)
    key = "backbone.model.text_projection.weight"
    save_file(weights | {key: torch.zeros(3, 3)}, path)
    with pytest.raises(ModelFormatError, match=key):
        read_model(tmp_path / "m")


def test_a_folder_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="not a model"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="neither"):
        read_model(tmp_path)


def test_a_switch_that_is_off_leaves_older_models_their_fingerprints(make_model) -> None:
    # Indexes that were built with them go on working.
    known = {"vidsift-tiny": "8a7410c46bbc146d", "clip-tiny": "585bcab48c9efecf"}
    assert {name: load_model(name).fingerprint() for name in known} == known
    for method in ("teachclip", "vidsift"):
        plain, peaked = make_model(method).config, make_model(f"{method}+peaks").config
        assert "peaks" not in plain.identity()
        assert peaked.identity() == plain.identity() | {"peaks": True}
