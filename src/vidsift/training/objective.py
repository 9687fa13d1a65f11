"""The loss of a batch: the terms that a recipe names, each from a pure function of `vidsift.losses`."""

from __future__ import annotations

import torch
from torch import Tensor

from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.correlation import correlation_constraint
from vidsift.losses.ranking import max_margin
from vidsift.losses.regression import embedding_regression
from vidsift.losses.similarity import similarity_matching
from vidsift.losses.teaching import coarse_teaching, fine_teaching
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.training.recipe import FineTeaching, ObjectiveSection, SimilarityMatching
from vidsift.training.teachers import TeacherSignals, paired


class Objective:
    """Weighted sum of terms for text i matching clip i.

    Raises ValueError for scores or vectors that the method does not have.
    """

    def __init__(self, section: ObjectiveSection, model: RetrievalModel) -> None:
        self.section = section
        named = [*section.contrastive]
        named += [part.of for part in (section.coarse_teaching, section.similarity_matching) if part]
        for name in named:
            if name not in model.score_names:
                known = ", ".join(model.score_names)
                raise ValueError(f"objective: {model.method} has no score {name!r}; it has {known}")

    def __call__(
        self,
        model: RetrievalModel,
        text: TextFeatures,
        clips: ClipFeatures,
        ids: Tensor,
        signals: TeacherSignals | None = None,
        reference: TextFeatures | None = None,
    ) -> dict[str, Tensor]:
        """The terms by name, each a scalar; `loss` is their weighted sum.

        text, clips: features of B matching pairs.  ids: [B] numbers that name each pair's clip.
        signals: what the teachers say of the same batch, in the same order.  reference: the same texts by the
        text tower that a compact one follows.
        """
        section, scores = self.section, _Scores(model, text, clips)
        terms: dict[str, tuple[float, Tensor]] = {}
        known = None if section.same_clip_negatives else ids
        for name, weight in section.contrastive.items():
            terms[f"contrastive_{name}"] = (weight, symmetric_info_nce(scores[name], ids=known))
        if section.max_margin:
            cosines = model.backbone.cosines(scores["similarity"])
            loss = max_margin(cosines, section.max_margin.margin, known)
            terms["max_margin"] = (section.max_margin.weight, loss)
        if section.correlation:
            own = model.own_vectors(text, clips)
            wanted = section.correlation.vectors
            if wanted is None:
                wanted = {name: 1.0 for name in own if not name.startswith("patch")}
            parts = [w * correlation_constraint(text.sentence, own[name]) for name, w in wanted.items()]
            terms["correlation"] = (section.correlation.weight, torch.stack(parts).sum())
        if section.text_regression:
            if reference is None:
                raise ValueError("this objective needs texts to follow")
            followed = embedding_regression(text.sentence, reference.sentence)
            if section.text_regression.words:
                words = embedding_regression(text.words, reference.words, text.mask)
                followed = followed + section.text_regression.words * words
            terms["text_regression"] = (section.text_regression.weight, followed)
        if section.needs_teachers:
            if signals is None:
                raise ValueError("this objective needs teachers' signals")
            terms |= self._taught(model, text, clips, scores, signals)
        found = {name: loss for name, (_, loss) in terms.items()}
        total = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
        return {"loss": total, **found}

    def _taught(
        self,
        model: RetrievalModel,
        text: TextFeatures,
        clips: ClipFeatures,
        scores: _Scores,
        signals: TeacherSignals,
    ) -> dict[str, tuple[float, Tensor]]:
        terms: dict[str, tuple[float, Tensor]] = {}
        coarse, fine, matching = (
            self.section.coarse_teaching,
            self.section.fine_teaching,
            self.section.similarity_matching,
        )
        if coarse:
            losses = [coarse_teaching(scores[coarse.of], z, coarse.kind) for z in signals.scores]
            terms["coarse_teaching"] = (coarse.weight, torch.stack(losses).mean())
        if fine:
            terms["fine_teaching"] = (fine.weight, _fine(fine, model, text, clips, signals.weights))
        if matching:
            own = model.backbone.cosines(scores[matching.of])
            terms["similarity_matching"] = (matching.weight, _matching(matching, own, signals))
        return terms


def _matching(section: SimilarityMatching, own: Tensor, signals: TeacherSignals) -> Tensor:
    """Cosines [B, B] against those of the teachers."""
    if section.aggregate == "each":
        return torch.stack([similarity_matching(own, z) for z in signals.cosines]).mean()
    weights = signals.recalls if section.aggregate == "weighted" else None
    return similarity_matching(own, signals.cosines, weights)


def _fine(
    fine: FineTeaching, model: RetrievalModel, text: TextFeatures, clips: ClipFeatures, weights: Tensor
) -> Tensor:
    """The mean over teachers; means run over real frames, or sum over a clip's as the paper writes it."""
    own = paired(model.taught_weights(text, clips))
    losses = torch.stack([fine_teaching(own, y, clips.mask, fine.kind) for y in weights]).mean()
    if fine.per_clip and fine.kind != "pearson":
        losses = losses * clips.mask.sum() / clips.mask.any(-1).sum().clamp_min(1)
    return losses


class _Scores:
    """The scores of a batch by name, each computed once."""

    def __init__(self, model: RetrievalModel, text: TextFeatures, clips: ClipFeatures) -> None:
        self.model, self.text, self.clips = model, text, clips
        self.found: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.found:
            self.found[name] = self.model.score(name, self.text, self.clips)
        return self.found[name]
