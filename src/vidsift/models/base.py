"""The contract of a retrieval method: encode clips and texts apart, score them, say which frames answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from vidsift.models.backbone import Backbone
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.pooling import text_gated_weights
from vidsift.models.preprocess import PreprocessSpec
from vidsift.models.text import TextTokenizer

__all__ = ["ClipFeatures", "MethodConfig", "RetrievalModel", "SearchWeights", "TextFeatures"]


@dataclass(frozen=True)
class MethodConfig:
    """Settings of one method, saved with the model; each method extends it."""

    switches: ClassVar[frozenset[str]] = frozenset()
    """Fields that are newer than some saved models: while they are off, these keep their fingerprints."""

    def identity(self) -> dict[str, Any]:
        """The settings that change a vector."""
        return {name: v for name, v in asdict(self).items() if v or name not in self.switches}


@dataclass(frozen=True)
class SearchWeights:
    """How the index ranks its short list: coarse_weight x cosine + fine_weight x text-gated frame score.

    temperature: of the gate.  candidates: length of the short list that is enough.
    own_score: rank by the method's own similarity instead, where the model is at hand.
    slope, coarse_slope, offset, least: how a score becomes a confidence (`vidsift.index.confidence`), fitted
    by training. The defaults, for models that were not trained here, are the bundled vidsift-tiny's, rounded,
    without the coarse score.
    """

    coarse_weight: float = 0.5
    fine_weight: float = 0.5
    temperature: float = 0.1
    candidates: int = 100
    own_score: bool = False
    slope: float = 1.3
    coarse_slope: float = 0.0
    offset: float = -2.36
    least: float = 0.2


class RetrievalModel(nn.Module):
    """A method over a backbone. Subclasses set `method`, `index_parts` and `config_class`, and implement the
    four functions `encode_video`, `encode_text`, `similarity` and `frame_relevance`.

    method: the name in the registry.  index_parts: the `ClipFeatures` fields that an index must keep.
    name: what users call this model (bundled name, hub id, folder); the method's name until it is loaded.
    frames_per_clip: F that the model was made for; any F works.  max_words: longer texts are cut.
    """

    method: ClassVar[str]
    index_parts: ClassVar[frozenset[str]] = frozenset({"coarse", "frames"})
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    variants: ClassVar[tuple[str, ...]] = ()
    """Switches of the configuration, off by default, that make the method score by something else."""
    scaled: ClassVar[bool] = True
    """Whether `similarity` uses the backbone's logit scale."""

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: TextTokenizer,
        config: MethodConfig | None = None,
        *,
        frames_per_clip: int = 12,
        search: SearchWeights | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.config: Any = config if config is not None else self.config_class()
        self.frames_per_clip = frames_per_clip
        self.search = search or SearchWeights()
        self.name = self.method
        # Fingerprints of models that give clips the same vectors, and differ in how they read texts.
        self.same_clips_as: tuple[str, ...] = ()
        # Sentences about common things of the model's world; () stands for those that come with vidsift.
        self.background: tuple[str, ...] = ()
        self.add_layers()

    def add_layers(self) -> None:
        """Make the method's own layers, freshly initialised, from `self.backbone` and `self.config`."""

    @property
    def width(self) -> int:
        """D, the width of sentence, coarse and frame vectors."""
        return self.backbone.width

    @property
    def preprocess(self) -> PreprocessSpec:
        """The pictures that `encode_video` takes."""
        return self.backbone.preprocess

    @property
    def max_words(self) -> int:
        """Longest text in tokens; `tokenize` cuts to it."""
        return self.tokenizer.max_length

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are moved there."""
        return self.backbone.device

    # -- the four functions of a method ----------------------------------------------------------------

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        """Encode clips without any text.  frames: uint8 [V, F, 3, H, W].  mask: [V, F] bool, True on real."""
        raise NotImplementedError

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode texts without any video.  ids: [T, W] int64.  mask: [T, W] bool, True on real tokens."""
        raise NotImplementedError

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """Logits [T, V]: what training optimises and evaluation ranks."""
        raise NotImplementedError

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """Which frames answer the text: [T, V, F], rows sum to 1 over real frames, 0 for an empty clip."""
        raise NotImplementedError

    # -- the heads alone: functions of what the backbone gave, cached or not -----------------------------

    @property
    def uses_patches(self) -> bool:
        """Whether `clip_features` wants the patch vectors, too."""
        return False

    @property
    def tower_settings(self) -> dict[str, Any]:
        """Settings of the method that change what `encode_real_frames` gives."""
        return {}

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        """Features of clips from raw frame vectors [V, F, D], their mask [V, F] and patches [V, F, P, D]."""
        raise NotImplementedError

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        """Features of texts from raw sentence vectors [T, D], word vectors [T, W, D] and their mask."""
        raise NotImplementedError

    @property
    def sees_frames(self) -> bool:
        """Whether clips come to it as frames, so that it can say which of them matter."""
        return True

    # -- what training asks of a method ------------------------------------------------------------------

    score_names: ClassVar[tuple[str, ...]] = ("similarity", "coarse")
    undecayed: ClassVar[frozenset[str]] = frozenset()
    """Last names of matrices that start as the identity: weight decay would pull them to zero."""

    def score(self, name: str, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """One of `score_names`, logits [T, V]: what a contrastive term of a recipe names.

        Raises ValueError for a name that this method does not have.
        """
        if name == "similarity":
            return self.similarity(text, clips)
        if name == "coarse":
            return self.coarse_similarity(text, clips)
        raise ValueError(f"{self.method} has no score {name!r}; it has {', '.join(self.score_names)}")

    def coarse_similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """Logits [T, V] of the coarse vectors alone: what recall ranks by."""
        return self.backbone.logits(text.sentence @ clips.coarse.T)

    def query_vectors(self, text: TextFeatures) -> Tensor:
        """What stands for texts in an index: [T, D] unit norm, whose cosines rank as `coarse_similarity`."""
        return text.sentence

    def own_vectors(self, text: TextFeatures, clips: ClipFeatures) -> dict[str, Tensor]:
        """The vectors of clip i that meet the sentence of text i in its scores, by name: [B, D] each."""
        return {"coarse": clips.coarse}

    def taught_weights(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """What fine-grained teaching compares with its teachers' weights: [T, V, F], `frame_relevance`."""
        return self.frame_relevance(text, clips)

    def teaching_weights(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """What this model, as a teacher, says of frames: [T, V, F], rows sum to 1 over real frames.

        As TeachCLIP takes it from X-CLIP and TS2-Net: the softmax of sentence-frame cosines at temperature
        1, which is nearly uniform; a recipe's temperature sharpens it. Legacy models count padding, too.
        """
        legacy = getattr(self.config, "legacy", False)
        mask = torch.ones_like(clips.mask) if legacy else clips.mask
        return text_gated_weights(clips.frames, text.sentence, mask, 1.0)

    # -- shared by all methods -------------------------------------------------------------------------

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Texts -> ids [T, W] and mask [T, W] bool on the model's device, W the longest text given.

        Never padded to the maximum: a causal text tower gives the same sentence vector at any padding, and
        the wrappers of those that do not (SigLIP) pad inside. An empty text is just its special tokens.
        """
        ids, mask = self.tokenizer(texts)
        return ids.to(self.device), mask.to(self.device)

    def encode_real_frames(
        self, frames: Tensor, mask: Tensor, patches: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run the backbone on the real frames only: [V, F, D] and [V, F, P, D] or None, raw, 0 where masked.

        frames: uint8 [V, F, 3, H, W].  mask: [V, F] bool.  A masked frame costs nothing.
        """
        if frames.ndim != 5 or mask.shape != frames.shape[:2]:
            raise ValueError(
                f"frames {tuple(frames.shape)}, mask {tuple(mask.shape)}: expected [V, F, 3, H, W] and [V, F]"
            )
        if bool(mask.all()):  # a mask on the CPU does not wait for a GPU
            out = self.backbone.encode_frames(frames.flatten(0, 1), patches)
            found = None if out.patches is None else out.patches.view(*mask.shape, *out.patches.shape[1:])
            return out.frames.view(*mask.shape, -1), found
        out = self.backbone.encode_frames(frames[mask.to(frames.device)], patches)
        mask = mask.to(out.frames.device)
        vectors = out.frames.new_zeros(*mask.shape, out.frames.shape[-1])
        vectors = vectors.masked_scatter(mask.unsqueeze(-1), out.frames)
        if out.patches is None:
            return vectors, None
        spread = out.patches.new_zeros(*mask.shape, *out.patches.shape[1:])
        return vectors, spread.masked_scatter(mask[..., None, None], out.patches)

    def forward(
        self, ids: Tensor, words: Tensor, frames: Tensor, frame_mask: Tensor
    ) -> tuple[TextFeatures, ClipFeatures]:
        """Both encoders in one call, so that wrappers of `forward` (DDP, compile) see the whole model.

        ids, words: token ids and their mask [T, W].  frames, frame_mask: [V, F, 3, H, W] and [V, F].
        """
        return self.encode_text(ids, words), self.encode_video(frames, frame_mask)

    # -- numpy at the edge -------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_queries(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What an index compares with its vectors: `query_vectors` of texts, float32 [T, D]."""
        query = self.query_vectors(self.encode_text(*self.tokenize(texts)))
        return np.asarray(query.float().cpu().numpy())

    @torch.inference_mode()
    def encode_images(self, pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Pictures uint8 [N, 3, H, W] as queries: coarse vectors of clips of one frame, float32 [N, D]."""
        frames = np.repeat(pictures[:, None], self.frames_per_clip, 1)
        mask = np.zeros(frames.shape[:2], bool)
        mask[:, 0] = True
        clips = self.encode_video(torch.from_numpy(frames), torch.from_numpy(mask))
        return np.asarray(clips.coarse.float().cpu().numpy())

    @torch.inference_mode()
    def encode_video_np(
        self, frames: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
    ) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """The parts of clips that the index keeps, by name, as float32 arrays.

        frames: uint8 [V, F, 3, H, W].  mask: bool [V, F].  Returns e.g. coarse [V, D] and frames [V, F, D].
        """
        clips = self.encode_video(torch.from_numpy(frames), torch.from_numpy(mask))
        parts = {
            p: clips.extra[p] if p in clips.extra else getattr(clips, p) for p in sorted(self.index_parts)
        }
        return {name: np.asarray(part.float().cpu().numpy()) for name, part in parts.items()}

    # -- identity and storage ----------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """16 hex digits that name what this model computes: SHA-256 over configuration and weights.

        Weights count as fp32 in key order, so device and save format do not matter; rounding the weights to
        fp16 is another model. `search`, which only ranks, and the user-given name are left out.
        """
        digest = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            array = value.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
            digest.update(array.astype("<f4", copy=False).data)
        return digest.hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        """The settings that change a vector; only those of transformers' whose default could not drift."""
        keys = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "eos_token_id")
        towers = {
            name: {k: getattr(tower, k) for k in keys if hasattr(tower, k)}
            for name, tower in (
                ("text", self.backbone.config.text_config),
                ("vision", self.backbone.config.vision_config),
            )
        }
        compiled = self.backbone.compiled
        # In fp32 a compiled tower gives what torch gives.
        precision = "fp32" if compiled is None else compiled.settings.precision
        return {
            "method": self.method,
            **({} if precision == "fp32" else {"precision": precision}),
            "method_config": self.config.identity(),
            "frames_per_clip": self.frames_per_clip,
            "max_words": self.max_words,
            "preprocess": self.preprocess.to_dict(),
            "backbone": {"model_type": self.backbone.model_type, **towers},
            "text": {"cleaning": self.tokenizer.cleaning, "pad_id": self.backbone.pad_id},
        }

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors and the tokenizer files; `from_pretrained` reads them back.

        dtype: how weights are stored; float16 halves the file and rounds the weights.
        """
        from vidsift.models.storage import save_model

        save_model(self, Path(folder), dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder that `save_pretrained` wrote, in eval mode, as float32.

        Raises ModelFormatError when the folder holds another method than this class, or cannot be read.
        """
        from vidsift.errors import ModelFormatError
        from vidsift.models.storage import read_model

        model = read_model(Path(folder))
        if not isinstance(model, cls):
            raise ModelFormatError(f"{folder}: holds the method {model.method!r}, not a {cls.__name__}")
        return model
