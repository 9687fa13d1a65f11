"""`open_expert`: from a name in a recipe to an expert that can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from vidsift.errors import RecipeError
from vidsift.experts import audio, motion, words
from vidsift.experts.appearance import Appearance
from vidsift.experts.base import ExpertSource
from vidsift.experts.colour import Colour
from vidsift.models.text_encoders import load_text_encoder


@dataclass(frozen=True)
class Means:
    """What experts are made with.  backbone: the dual encoder that stands in for a MODEL that is not named.
    frames: of a clip, for the experts that look at pictures one by one.
    """

    backbone: str
    frames: int
    device: str = "cpu"

    def resolved(self, name: str) -> str:
        """The same expert, with its model named."""
        return name if ":" in name or name not in _OF_A_MODEL else f"{name}:{self.backbone}"


def _appearance(name: str, model: str, means: Means) -> ExpertSource:
    return Appearance(name, model or means.backbone, means.frames, False, means.device)


def _frames(name: str, model: str, means: Means) -> ExpertSource:
    return Appearance(name, model or means.backbone, means.frames, True, means.device)


def _motion(name: str, model: str, means: Means) -> ExpertSource:
    return motion.VideoModel(name, model, means.device) if model else motion.Motion(name)


def _audio(name: str, model: str, means: Means) -> ExpertSource:
    return audio.AudioModel(name, model, means.device) if model else audio.Audio(name)


def _colour(name: str, model: str, means: Means) -> ExpertSource:
    if model:
        raise RecipeError(f"expert {name!r}: colour takes no model")
    return Colour(name)


def _speech(name: str, model: str, means: Means) -> ExpertSource:
    return words.speech(name, load_text_encoder(model or means.backbone))


def _ocr(name: str, model: str, means: Means) -> ExpertSource:
    return words.ocr(name, load_text_encoder(model or means.backbone))


EXPERTS: dict[str, tuple[Callable[[str, str, Means], ExpertSource], str]] = {
    "appearance": (_appearance, "mean frame vector of an image tower"),
    "frames": (_frames, "its frame vectors as a set"),
    "motion": (_motion, "optical flow over a grid; motion:MODEL a transformers video model"),
    "colour": (_colour, "colour histograms of frames and their quarters"),
    "audio": (_audio, "log-mel statistics; audio:MODEL a transformers audio model"),
    "speech": (_speech, "subtitles beside or in the file, through a text encoder"),
    "ocr": (_ocr, "what stands written in the pictures, through a text encoder"),
}

_OF_A_MODEL = ("appearance", "frames", "speech", "ocr")


def open_expert(name: str, means: Means) -> ExpertSource:
    """An expert by `KIND` or `KIND:MODEL`, where MODEL is a bundled name, folder, preset or hub id (of a
    text encoder for `speech` and `ocr`).

    Raises RecipeError, with the nearest name, for an unknown kind, and what loading the model raises.
    """
    kind, _, model = name.partition(":")
    if kind not in EXPERTS:
        near = get_close_matches(kind, EXPERTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(EXPERTS)}"
        raise RecipeError(f"no expert {kind!r}; {hint}")
    return EXPERTS[kind][0](name, model, means)
