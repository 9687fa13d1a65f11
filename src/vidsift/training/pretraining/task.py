"""The contrastive task: a dual encoder, its auxiliary heads and the objective of one step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidsift.datasets.storyboard.vocabulary import words
from vidsift.losses.attributes import soft_cross_entropy
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.base import RetrievalModel
from vidsift.models.pooling import masked_mean, text_gated_score, unit
from vidsift.models.preprocess import PreprocessSpec
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.training.pretraining.batches import ATTRIBUTE_HEADS, Batch
from vidsift.training.pretraining.recipe import ModelSection, PretrainRecipe, StageSection


def new_model(section: ModelSection) -> RetrievalModel:
    """A freshly initialised CLIP over the storyboard's words, under mean pooling."""
    vision, text = section.vision, section.text
    shape = ClipShape(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vision_width=vision.width,
        vision_layers=vision.layers,
        vision_heads=vision.heads,
        text_width=text.width,
        text_layers=text.layers,
        text_heads=text.heads,
        projection=section.width,
        max_words=text.max_words,
        activation="gelu",
    )
    pixels = PreprocessSpec(size=vision.image_size, mean=(section.mean,) * 3, std=(section.std,) * 3)
    return new_clip_model(build_word_tokenizer(words(), text.max_words), shape, preprocess=pixels)


class ContrastiveTask(nn.Module):
    """Owns the model and the heads that are dropped afterwards; computes the loss of a batch."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        super().__init__()
        self.model = new_model(recipe.model)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(self.model.width, classes) for name, classes in ATTRIBUTE_HEADS.items()}
        )
        self.max_scale = recipe.optimiser.max_scale
        with torch.no_grad():
            self.logit_scale.fill_(math.log(recipe.optimiser.initial_scale))

    @property
    def logit_scale(self) -> Tensor:
        scale: Tensor = self.model.backbone.model.logit_scale
        return scale

    def clamp_scale(self) -> None:
        """Keep the temperature in its range; call after every optimiser step."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(self.max_scale))

    def loss(self, batch: Batch, stage: StageSection) -> dict[str, Tensor]:
        """The terms of the objective by name; `loss` is their weighted sum."""
        pixels = torch.from_numpy(batch.pixels)
        items, frames = pixels.shape[:2]
        vectors = self.model.backbone.encode_frames(pixels.flatten(0, 1)).frames.float()
        ids, mask = self.model.tokenize(batch.captions + batch.negatives)
        sentences = unit(self.model.backbone.encode_tokens(ids, mask).sentence.float())

        pictures = unit(vectors).view(items, frames, -1)
        full = torch.ones(items, frames, dtype=torch.bool)
        coarse = unit(masked_mean(pictures, full)) if frames > 1 else pictures[:, 0]
        scale = self.logit_scale.exp()
        same = torch.from_numpy(batch.same)
        terms = {"coarse": self._nce(scale * (sentences @ coarse.T), same)}
        if frames > 1:
            search = self.model.search
            fine = text_gated_score(pictures, sentences, full, search.temperature)
            mixed = search.coarse_weight * (sentences @ coarse.T) + search.fine_weight * fine
            terms["mixed"] = self._nce(scale * mixed, same)
            total = stage.coarse * terms["coarse"] + (1 - stage.coarse) * terms["mixed"]
        else:
            total = terms["coarse"]
        if stage.attributes:
            attributes = [
                soft_cross_entropy(head(vectors), torch.from_numpy(batch.labels[name]))
                for name, head in self.heads.items()
            ]
            terms["attributes"] = torch.stack(attributes).sum()
            total = total + stage.attributes * terms["attributes"]
        return {"loss": total, **terms}

    @staticmethod
    def _nce(scores: Tensor, same: Tensor) -> Tensor:
        """InfoNCE of every round of captions against the clips, averaged; further rows are negatives."""
        rounds, items = same.shape[:2]
        negatives = scores[rounds * items :]
        losses = [
            symmetric_info_nce(scores[r * items : (r + 1) * items], same[r], negatives) for r in range(rounds)
        ]
        return torch.stack(losses).mean()
