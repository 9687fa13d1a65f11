"""A model's two towers as OpenVINO runs them: several times faster on a CPU, beside the weights of record.

A folder that `write_compiled` has been to is a model folder like any other, with openvino/ in it. torch stays
the reference: training, GPUs and gradients never see the compiled towers.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import Backbone, ClipBackbone, FrameVectors, SiglipBackbone, TextVectors

if TYPE_CHECKING:
    from vidsift.models.base import RetrievalModel

log = logging.getLogger(__name__)

FOLDER = "openvino"
_SETTINGS = "towers.json"
Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
INSTALL = "pip install 'vidsift[openvino]'"


@dataclass(frozen=True)
class TowerSettings:
    """precision: of the picture tower; the text tower is always fp32, because int8 moves sentences too far
    and a query waits for a single one.  source: the model that was compiled; its fingerprint is `reference`.
    """

    precision: Precision
    patches: bool
    source: str
    reference: str


class CompiledTowers:
    """The two towers of one model, compiled when they are first used, with as many threads as torch has."""

    def __init__(self, folder: Path, settings: TowerSettings, width: int) -> None:
        self.folder = folder
        self.settings = settings
        self._width = width
        self._compiled: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._requests = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledTowers:
        return self  # nothing in it changes

    def encode_frames(self, frames: Tensor, patches: bool) -> FrameVectors:
        """Raw vectors of pictures uint8 [N, 3, H, W] on the CPU, as `Backbone.encode_frames` gives them."""
        out = self._run("vision", np.ascontiguousarray(frames.numpy()))
        return FrameVectors(out[0], out[1] if patches else None)

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> TextVectors:
        """Raw vectors of texts, as `Backbone.encode_tokens` gives them."""
        return TextVectors(*self._run("text", ids.numpy(), mask.numpy()))

    def serves(self, device: torch.device, patches: bool) -> bool:
        """Whether a call with weights on `device` goes here: on a CPU, without gradients."""
        plain = device.type == "cpu" and not torch.is_grad_enabled()
        return plain and (self.settings.patches or not patches)

    def _run(self, tower: str, *inputs: npt.NDArray[Any]) -> tuple[Tensor, ...]:
        # A request each for every thread: making one costs more than a short sentence.
        requests = self._requests.__dict__
        request = requests.get(tower) or requests.setdefault(tower, self._tower(tower).create_infer_request())
        request.infer(list(inputs), share_inputs=True)
        return tuple(torch.from_numpy(output.data.copy()) for output in request.output_tensors)

    def _tower(self, tower: str) -> Any:
        with self._lock:
            if tower not in self._compiled:
                import openvino

                hint = "bf16" if tower == "vision" and self.settings.precision == "bf16" else "f32"
                options = {
                    "INFERENCE_PRECISION_HINT": hint,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                }
                path = self.folder / f"{tower}.xml"
                try:
                    self._compiled[tower] = openvino.Core().compile_model(path, "CPU", options)
                except RuntimeError as error:
                    reason = str(error).splitlines()[0]
                    raise ModelFormatError(
                        f"{path}: cannot be compiled ({reason}); export it again"
                    ) from error
            return self._compiled[tower]


def open_compiled(folder: Path, width: int) -> CompiledTowers | None:
    """The compiled towers in a model folder; None when it has none, or (with a warning) when OpenVINO is not
    installed and torch can stand in.

    Raises ModelFormatError for a picture tower in less than fp32 without OpenVINO: torch would give other
    vectors than those of its indexes.
    """
    path = folder / FOLDER / _SETTINGS
    if not path.is_file():
        return None
    try:
        settings = TowerSettings(**json.loads(path.read_text(encoding="utf-8"))["towers"])
        if settings.precision not in PRECISIONS:
            raise ValueError(f"precision {settings.precision!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{path}: {error}; export the model again") from error
    if importlib.util.find_spec("openvino") is None:
        if settings.precision != "fp32":
            raise ModelFormatError(
                f"{folder}: was compiled in {settings.precision} for OpenVINO, which is not installed: "
                f"{INSTALL}, or use the model that it was made from ({settings.source})"
            )
        log.warning("%s: OpenVINO is not installed, torch is used (slower): %s", folder, INSTALL)
        return None
    return CompiledTowers(folder / FOLDER, settings, width)


def check_compilable(model: RetrievalModel) -> None:
    """Raise ModelFormatError for a model whose towers cannot be compiled, or when OpenVINO is missing."""
    if importlib.util.find_spec("openvino") is None:
        raise ModelFormatError(f"exporting towers needs OpenVINO: {INSTALL}")
    if not isinstance(model.backbone, ClipBackbone | SiglipBackbone):
        raise ModelFormatError(f"{model.name}: has no picture tower of its own, so nothing can be compiled")
    if model.tower_settings:
        raise ModelFormatError(
            f"{model.name}: {model.method} mixes frames inside its picture tower, which cannot be compiled "
            "picture by picture; index with a student of it"
        )


def write_compiled(
    model: RetrievalModel,
    folder: Path,
    precision: Precision,
    calibration: Sequence[npt.NDArray[np.uint8]] = (),
) -> None:
    """Write the towers of `model` into its saved folder.

    calibration: for int8, pictures [3, H, W] like those to come; their activations set the scales.
    """
    import openvino

    check_compilable(model)
    backbone, target = model.backbone, folder / FOLDER
    size = backbone.image_size
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    ids, mask = model.tokenize(["a longer text", "a text"])
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every branch on a shape; the comparison with torch would show one that matters.
        warnings.simplefilter("ignore")
        vision = openvino.convert_model(_Vision(backbone, model.uses_patches), example_input=pixels)
        text = openvino.convert_model(_Text(backbone), example_input=(ids, mask))
    vision.reshape([-1, 3, size, size])
    text.reshape({0: [-1, -1], 1: [-1, -1]})
    if precision == "int8":
        vision = _quantised(vision, calibration)
    target.mkdir(parents=True, exist_ok=True)
    for name, tower in (("vision", vision), ("text", text)):
        openvino.save_model(tower, target / f"{name}.xml", compress_to_fp16=False)
    settings = TowerSettings(precision, model.uses_patches, model.name, model.fingerprint())
    # Last: a folder with settings is whole.
    (target / _SETTINGS).write_text(
        json.dumps({"towers": asdict(settings)}, indent=2) + "\n", encoding="utf-8"
    )


def note_parity(folder: Path, parity: dict[str, Any]) -> None:
    """Keep what was measured of the compiled towers beside them."""
    path = folder / FOLDER / _SETTINGS
    found = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(found | {"parity": parity}, indent=2) + "\n", encoding="utf-8")


def _quantised(tower: Any, calibration: Sequence[npt.NDArray[np.uint8]]) -> Any:
    """int8 weights and activations (NNCF's scheme for transformers, with SmoothQuant)."""
    import nncf

    if not calibration:
        raise ValueError("int8 needs pictures to calibrate with")
    pictures = nncf.Dataset([picture[None] for picture in calibration])
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(sys.stderr):  # its progress bars
        return nncf.quantize(
            tower, pictures, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
        )


class _Vision(nn.Module):
    """The picture tower from bytes to raw vectors, as a module that can be traced."""

    def __init__(self, backbone: Backbone, patches: bool) -> None:
        super().__init__()
        self.backbone, self.patches = backbone, patches

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        out = self.backbone.encode_frames_by_torch(frames, self.patches)
        return (out.frames,) if out.patches is None else (out.frames, out.patches)


class _Text(nn.Module):
    """The text tower from token ids to raw vectors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self.backbone.encode_tokens_by_torch(ids, mask)
        return out.sentence, out.words
