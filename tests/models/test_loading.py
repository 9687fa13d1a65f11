"""`load_model`: every kind of name, and a quick clear answer when there is nothing behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from vidsift.errors import DeviceError, ModelNotFoundError
from vidsift.models import DEFAULT_MODEL, PRESETS, bundled_models, load_model, loading

HUB_ID = "somebody/some-model"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def refused(*_: Any, **__: Any) -> None:
        raise OfflineModeIsEnabled("no network in tests")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refused)
    return cache


def into_cache(cache: Path, hub_id: str, folder: Path) -> None:
    """Lay a folder in a hub cache as a download does."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, repo / "snapshots" / "0")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Any]) -> str:
    """A package whose only bundled model is `clip-tiny`."""
    make_model().save_pretrained(tmp_path / "bundled" / "clip-tiny")
    monkeypatch.setattr(loading, "BUNDLED", tmp_path / "bundled")
    return make_model().fingerprint()


def test_the_default_is_the_bundled_model_and_named_so(bundle: str) -> None:
    assert bundled_models() == ["clip-tiny"]
    model = load_model()
    assert model.name == DEFAULT_MODEL == "clip-tiny"
    assert model.fingerprint() == bundle
    assert not model.training


def test_a_bundled_name_wins_over_a_folder_of_that_name(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Any]
) -> None:
    make_model(seed=1).save_pretrained(tmp_path / "here" / "clip-tiny")
    monkeypatch.chdir(tmp_path / "here")
    assert load_model("clip-tiny").fingerprint() == bundle
    assert load_model("./clip-tiny").fingerprint() != bundle


def test_a_folder_loads_by_path(tmp_path: Path, make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "my model é")
    loaded = load_model(str(tmp_path / "my model é"))
    assert loaded.fingerprint() == model.fingerprint()
    # The name is one that loads the model again, from any working folder.
    assert load_model(loaded.name).fingerprint() == model.fingerprint()
    assert Path(loaded.name).is_absolute()


def test_a_cached_hub_id_loads_without_asking_the_hub(
    empty_cache: Path, hub_folder: Callable[..., Path]
) -> None:
    into_cache(empty_cache, HUB_ID, hub_folder("siglip"))
    model = load_model(HUB_ID)
    assert (model.name, model.backbone.model_type) == (HUB_ID, "siglip")


def test_a_preset_is_its_hub_id(empty_cache: Path, hub_folder: Callable[..., Path]) -> None:
    into_cache(empty_cache, PRESETS["fast"].hub_id, hub_folder("clip"))
    assert load_model("fast").name == "fast"


def test_a_cache_that_holds_only_the_configuration_does_not_count(
    empty_cache: Path, hub_folder: Callable[..., Path]
) -> None:
    folder = hub_folder("clip")
    (folder / "model.safetensors").unlink()
    into_cache(empty_cache, HUB_ID, folder)
    with pytest.raises(ModelNotFoundError, match="not in the local cache"):
        load_model(HUB_ID)


@pytest.mark.parametrize("name", [HUB_ID, "best"])
def test_an_unreachable_hub_id_says_the_command_and_the_way_on(
    name: str, empty_cache: Path, bundle: str
) -> None:
    hub_id = PRESETS[name].hub_id if name in PRESETS else name
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(name)
    assert f"hf download {hub_id}" in str(caught.value)
    assert "bundled model: clip-tiny" in str(caught.value)


def test_a_hub_that_never_answers_is_given_up_in_seconds(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(30))
    monkeypatch.setattr(loading, "PROBE_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match="no answer within"):
        load_model(HUB_ID)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_a_fresh_process_fails_in_seconds(offline: str, tmp_path: Path) -> None:
    # A closed port on this machine stands for the hub, so that the test never leaves it.
    env = os.environ | {
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }
    code = f"""
import time
from vidsift.errors import DeviceError, ModelNotFoundError
from vidsift.models import load_model
start = time.monotonic()
try:
    load_model({HUB_ID!r})
except ModelNotFoundError as error:
    print(time.monotonic() - start, error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 10
    assert f"hf download {HUB_ID}" in message


def test_only_the_files_of_the_model_are_downloaded(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["model.safetensors", "pytorch_model.bin", "tf_model.h5", "config.json", "onnx/model.onnx"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    asked: dict[str, Any] = {}
    cached = huggingface_hub.snapshot_download

    def download(hub_id: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return cached(hub_id, **options)
        asked.update(options)
        return str(empty_cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loading.fetch(HUB_ID)
    chosen = list(
        huggingface_hub.utils.filter_repo_objects(
            files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
        )
    )
    assert sorted(chosen) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("clip-tinny", "clip-tiny"), ("balnced", "balanced"), ("multi-lingual", "multilingual")],
)
def test_a_mistyped_name_gets_a_suggestion(name: str, near: str, bundle: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"did you mean '{near}'"):
        load_model(name)


def test_a_name_like_nothing_gets_the_list(bundle: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match="known names: clip-tiny, fast, balanced, best, multilingual"
    ):
        load_model("zzz")


def test_a_hub_id_that_cannot_be_one_is_not_an_internal_error(empty_cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor"):
        load_model("a--b/c..d")


def test_a_missing_bundled_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    with pytest.raises(ModelNotFoundError, match="reinstall vidsift"):
        load_model()


def test_importing_models_does_not_import_transformers() -> None:
    code = "import sys, vidsift.models; sys.exit('transformers' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_state_consistent_facts(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert preset.hub_id.count("/") == 1
    assert preset.download_mb == round(preset.parameters * 4e-6)
    assert preset.licence in ("MIT", "Apache-2.0")


def test_preset_sizes_are_those_of_the_architectures() -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    with torch.device("meta"):
        fast = CLIPModel(CLIPConfig())
        balanced = SiglipModel(SiglipConfig(vision_config={"image_size": 256}))
        multilingual = SiglipModel(SiglipConfig(text_config={"vocab_size": 256000}))
    for name, model in (("fast", fast), ("balanced", balanced), ("multilingual", multilingual)):
        assert sum(p.numel() for p in model.parameters()) == PRESETS[name].parameters


def test_a_device_that_is_not_there_is_named(bundle: str) -> None:
    for device in ("cuda:93", "no such device"):
        with pytest.raises(DeviceError, match=device):
            load_model(device=device)
