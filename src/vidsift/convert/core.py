"""Published checkpoints to our models and back: strict, and with a report of what became of every tensor."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vidsift.convert import towers
from vidsift.errors import ConversionError
from vidsift.models.backbone import Backbone, build_backbone, hf_classes
from vidsift.models.base import RetrievalModel
from vidsift.models.registry import create_model, method_class
from vidsift.models.text import TextTokenizer

State = Mapping[str, Tensor]
OURS = "backbone.model."
# Left in checkpoints by older transformers: the numbers 0, 1, 2, ...
_POSITION_IDS = re.compile(r".*embeddings\.position_ids")
# exp(logit_scale) is clamped to 100 by every official training; a little more is fp16 rounding of ln 100.
_MAX_LOGIT_SCALE = 4.61


@dataclass(frozen=True)
class Description:
    """What a checkpoint turns out to hold, read from its keys and shapes.

    method: registered name.  settings: of the method's configuration.  frames, words: F and W when matrices
    of that size are in the checkpoint, else None.  unused: as in `Family`, for this checkpoint alone.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    frames: int | None = None
    words: int | None = None
    unused: Mapping[str, str] = field(default_factory=dict)


def _same(key: str) -> str:
    return key


@dataclass(frozen=True)
class Family:
    """How one official code base names things. Each module of this package defines one as `FAMILY`.

    name: as after `--from`.
    describe: reads a state dict (official keys) and says what it holds; raises ConversionError, naming the
        key, when it is certainly not of this family.
    rename: a key of our model's own layers -> the official key. The tensors are equal, number for number.
    marks: regular expressions of keys that only this family has; found elsewhere they name it in the error.
    unused: regular expression of official keys -> why they are not converted.
    towers: how the backbone is named, under `prefix`; None when the checkpoint has no CLIP in it.
    tower_key, tower_rename: a key of a tower, this family's -> OpenAI's usual one, and the way back; for
        families that wrap layers.
    build: makes the model of a family without towers; gets the state, the description and a tokenizer. The
        method's own layers are then loaded into it.
    ignore: class names (regular expressions) in the checkpoint file that are passed over; see `read_state`.
    """

    name: str
    describe: Callable[[State], Description]
    rename: Callable[[str], str] = _same
    marks: tuple[str, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    towers: Literal["openai", "huggingface"] | None = "openai"
    prefix: str = "clip."
    tower_key: Callable[[str], str] = _same
    tower_rename: Callable[[str], str] = _same
    build: Callable[[State, Description, TextTokenizer], RetrievalModel] | None = None
    ignore: tuple[str, ...] = ()


@dataclass
class Report:
    """mapped: official keys whose numbers are in our model.  skipped: (official key, why not).

    notes: what a reader should know besides.
    """

    family: str
    method: str
    settings: dict[str, Any]
    frames_per_clip: int
    max_words: int
    mapped: list[str]
    skipped: list[tuple[str, str]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"skipped": [{"key": k, "why": w} for k, w in self.skipped]}


def families() -> dict[str, Family]:
    """Every family by name: the `FAMILY` of each module of this package."""
    import vidsift.convert as package

    found = (
        importlib.import_module(f"{package.__name__}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
    )
    return {f.name: f for module in found if isinstance(f := getattr(module, "FAMILY", None), Family)}


def find_family(name: str) -> Family:
    """The family of that name.  Raises ConversionError listing the known ones."""
    known = families()
    if name not in known:
        raise ConversionError(f"no checkpoint family {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def from_official(
    state: State,
    family: Family,
    tokenizer: TextTokenizer,
    *,
    frames: int | None = None,
    legacy: bool = False,
) -> tuple[RetrievalModel, Report]:
    """Build our model from an official state dict, in eval mode and float32.

    state: official keys.  tokenizer: of the checkpoint's vocabulary; texts are cut at the W baked into the
    checkpoint, else at the length of the text tower's position table.
    frames: frames per clip when the checkpoint does not fix it; None takes 12.
    legacy: the official treatment of padding, to reproduce published numbers; a no-op for methods without it.
    Raises ConversionError, naming the official key, when one is missing, unknown or of a wrong shape.
    """
    try:
        return _from_official(state, family, tokenizer, frames, legacy)
    except ConversionError as error:
        others = _others(state, family)
        if not others:
            raise
        raise ConversionError(f"{error}; try {' or '.join(others)}") from error


def _from_official(
    state: State, family: Family, tokenizer: TextTokenizer, frames: int | None, legacy: bool
) -> tuple[RetrievalModel, Report]:
    known = family.describe(state)
    if frames is not None and known.frames not in (None, frames):
        # F is the side of matrices in the checkpoint.
        raise ConversionError(f"the checkpoint was trained with {known.frames} frames per clip, not {frames}")
    skipped = _skipped(state, {**family.unused, **known.unused})
    wanted = {key: value for key, value in state.items() if key not in skipped}
    settings = dict(known.settings)
    if legacy and any(f.name == "legacy" for f in fields(method_class(known.method).config_class)):
        settings["legacy"] = True
    count = known.frames or frames or 12
    known = replace(known, settings=settings, frames=count)
    if family.build is not None:
        model = family.build(wanted, known, tokenizer)
    else:
        backbone = _backbone(wanted, family, tokenizer)
        words = TextTokenizer(
            tokenizer.backend,
            pad_id=backbone.pad_id,
            max_length=known.words or backbone.max_words,
            cleaning=tokenizer.cleaning,
            settings=tokenizer.settings,
        )
        model = create_model(known.method, backbone, words, frames_per_clip=count, **settings)
    mapped = _load(model, wanted, family)
    notes = _unusual(model) if family.towers is not None else []
    scale = getattr(getattr(model.backbone, "model", None), "logit_scale", None)
    if isinstance(scale, Tensor) and float(scale.detach()) > _MAX_LOGIT_SCALE:
        notes.append(
            f"logit_scale is {float(scale.detach()):.3f}, above ln 100: official training clamps it there"
        )
    report = Report(
        family=family.name,
        method=model.method,
        settings=asdict(model.config),
        frames_per_clip=model.frames_per_clip,
        max_words=model.max_words,
        mapped=sorted(mapped),
        skipped=sorted(skipped.items()),
        notes=notes,
    )
    return model.eval(), report


def _unusual(model: RetrievalModel) -> list[str]:
    """Sizes that no released model has: whole layers that were lost leave no other trace in a checkpoint."""
    vision, text = model.backbone.config.vision_config, model.backbone.config.text_config
    sizes = (
        ("vision tower", "layers", vision.num_hidden_layers, (12, 24)),
        ("text tower", "layers", text.num_hidden_layers, (12,)),
        ("text tower", "positions", text.max_position_embeddings, (77,)),
        ("temporal stack", "layers", getattr(model.config, "layers", 4), (4, 0)),
        ("temporal stack", "positions", getattr(model.config, "positions", 77), (77,)),
    )
    return [
        f"the {part} has {count} {what}; released models have {' or '.join(str(n) for n in usual if n)}"
        for part, what, count, usual in sizes
        if count not in usual
    ]


def to_official(model: RetrievalModel, family: Family) -> dict[str, Tensor]:
    """Our model's tensors under the official keys: what `from_official` reads back bit for bit.

    Tensors that the official code makes but never uses are not in it.
    """
    state = model.state_dict()
    own = {family.rename(k): v.clone() for k, v in state.items() if not k.startswith(OURS)}
    if family.towers is None:
        return own
    clip = {k.removeprefix(OURS): v for k, v in state.items() if k.startswith(OURS)}
    if family.towers == "openai":
        clip = {family.tower_rename(k): v for k, v in towers.to_openai(clip).items()}
    return {family.prefix + k: v.clone() for k, v in clip.items()} | own


def _skipped(state: State, unused: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for key in state:
        why = next((w for pattern, w in unused.items() if re.fullmatch(pattern, key)), None)
        if why is None and _POSITION_IDS.fullmatch(key):
            why = "the numbers 0, 1, 2, ..., which newer transformers does not store"
        if why is not None:
            found[key] = why
    return found


def _backbone(state: State, family: Family, tokenizer: TextTokenizer) -> Backbone:
    """The CLIP in a checkpoint, loaded and checked key by key."""
    from transformers.initialization import no_init_weights

    clip = {k.removeprefix(family.prefix): v for k, v in state.items() if k.startswith(family.prefix)}
    if not clip:
        raise ConversionError(f"{family.prefix}*: the checkpoint has no such keys")
    openai = family.towers == "openai" or "visual.conv1.weight" in clip
    if openai:
        usual = {family.tower_key(key): value for key, value in clip.items()}
        found = {family.tower_key(key): family.prefix + key for key in clip}

        def name(key: str) -> str:
            return found.get(key, family.prefix + family.tower_rename(key))

        config = towers.clip_config(usual, name)
        values = towers.to_transformers(usual, config, name)
        unknown = sorted(set(usual) - towers.openai_keys(config))
    else:

        def name(key: str) -> str:
            return family.prefix + key

        values = {k: v.float() for k, v in clip.items()}
        config = towers.transformers_config(values, name)
        unknown = []
    model_class, config_class = hf_classes("clip")
    with no_init_weights():
        model = model_class(config_class(**config))
    own = model.state_dict()
    for key, value in own.items():
        official = name(towers.openai_name(key) if openai else key)
        if key not in values:
            raise ConversionError(f"{official}: missing from the checkpoint")
        if values[key].shape != value.shape:
            raise ConversionError(_shapes(official, values[key], value))
    for key in (*unknown, *(k for k in values if k not in own)):
        raise ConversionError(f"{name(key)}: not a key of CLIP")
    model.load_state_dict(values, assign=True)
    _check_end(tokenizer, config["text_config"])
    # Id 0 fills the official texts; legacy methods read the words behind the end.
    return build_backbone(model, pad_id=0)


def _check_end(tokenizer: TextTokenizer, text: Mapping[str, Any]) -> None:
    """A text is read at its end token; a tokenizer with other ids would give nonsense, silently."""
    ids = tokenizer([""])[0][0].tolist()
    start, end = text["bos_token_id"], text["eos_token_id"]
    if ids[0] != start or ids[-1] != end:
        raise ConversionError(
            f"the tokenizer turns an empty text into {ids}, but a checkpoint of {text['vocab_size']} tokens "
            f"expects [{start}, {end}]: it belongs to another model"
        )


def _load(model: RetrievalModel, state: State, family: Family) -> list[str]:
    """Load the method's own layers; returns every official key that is now in the model."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(OURS)}
    names = {key: family.rename(key) for key in own}
    for key, name in names.items():
        if name not in state:
            raise ConversionError(f"{name}: missing from the checkpoint")
        if state[name].shape != own[key].shape:
            raise ConversionError(_shapes(name, state[name], own[key]))
    taken = set(names.values())
    if family.towers is not None:
        taken |= {k for k in state if k.startswith(family.prefix)}
    for key in state:
        if key not in taken:
            raise ConversionError(f"{key}: not a key of {family.name} ({model.method})")
    values = {k: state[n].to(own[k].dtype) for k, n in names.items()}
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected
    assert all(key.startswith(OURS) for key in missing)
    return sorted(taken)


def _shapes(name: str, found: Tensor, wanted: Tensor) -> str:
    return f"{name}: shape {tuple(found.shape)}, but the other tensors ask for {tuple(wanted.shape)}"


def _others(state: State, family: Family) -> list[str]:
    """The families whose own keys are in the checkpoint, and that would take it, as advice."""
    found = []
    for other in families().values():
        own = (k for k in state if any(re.fullmatch(mark, k) for mark in other.marks))
        key = None if other.name == family.name else next(own, None)
        if key is not None and _takes(other, state):
            found.append(f"--from {other.name} (it has {key!r})")
    return found


def _takes(family: Family, state: State) -> bool:
    try:
        family.describe(state)
    except ConversionError:
        return False
    return True


def baked(state: State, key: str) -> int:
    """Side of a square matrix in a checkpoint: the W or F that it was trained with.

    Raises ConversionError naming the key when it is missing or not square.
    """
    if key not in state:
        raise ConversionError(f"{key}: missing from the checkpoint")
    shape = tuple(state[key].shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ConversionError(f"{key}: shape {shape} is not square")
    return int(shape[0])


def count_layers(state: State, start: str) -> int:
    """How many numbered layers follow a key's start, such as `transformerClip.resblocks.`."""
    return len({m.group(1) for k in state if (m := re.match(re.escape(start) + r"(\d+)\.", k))})


def head_from_official(model: RetrievalModel, state: State, family: Family) -> None:
    """Load a method's own layers from official keys, and the logit scale if it is there; nothing else."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(OURS)}
    _load(
        model, {family.rename(k): state[family.rename(k)] for k in own if family.rename(k) in state}, family
    )
    scale = state.get(f"{family.prefix}logit_scale")
    if scale is not None:
        with torch.no_grad():
            model.backbone.model.logit_scale.copy_(scale)
