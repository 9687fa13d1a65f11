"""Which model a run encodes with: the one that was named, or the index's own."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import vidsift
from vidsift.errors import ModelMismatchError, ModelNotFoundError
from vidsift.index.config import ModelSpec
from vidsift.index.rerank import RerankWeights

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel


class ChosenModel:
    """The model of a run, loaded only when it is needed: a run without work does not wait for weights."""

    def __init__(self, model: RetrievalModel | str | None, folder: str, device: str | None = None) -> None:
        self._folder, self._device = folder, device
        self._name = _reference(model) if isinstance(model, str) else None
        self._model = None if isinstance(model, str) else model
        self._expected: ModelSpec | None = None
        self._fingerprint: str | None = None

    def meet(self, spec: ModelSpec) -> None:
        """Take the index's model when none was named; ModelMismatchError when another one was."""
        self._expected = spec
        if self._model is None and self._name is None:
            self._name = spec.name
        elif self._model is not None or self._name != spec.name:
            try:
                self.load()
            except ModelNotFoundError as error:
                raise ModelMismatchError(
                    f"{self._folder}: built with model {spec.name!r}; {self._name!r} cannot be loaded to see "
                    f"whether it is the same: {error}"
                ) from error

    def load(self) -> RetrievalModel:
        """The model itself, checked against the index."""
        if self._model is None:
            from vidsift.models import DEFAULT_MODEL, best_device, load_model

            self._name = self._name or DEFAULT_MODEL
            self._model = load_model(self._name, self._device or best_device())
        if self._fingerprint is None:
            self._fingerprint = self._model.fingerprint()
        if self._expected is not None:
            self._expected.check(self._name or self._model.name, self._fingerprint, self._folder)
        return self._model

    @property
    def is_loaded(self) -> bool:
        """Whether the model is at hand already."""
        return self._model is not None

    def spec(self) -> ModelSpec:
        """What a new index remembers; the name is one that `load_model` takes wherever that is known.

        Raises ModelMismatchError for a model in legacy mode, which scores the padding that no index keeps,
        ModelFormatError for one that sees no pictures.
        """
        model = self.load()
        _ = model.preprocess.geometry  # before a folder is made
        if getattr(model.config, "legacy", False):
            raise ModelMismatchError(
                f"{self._name or model.name}: is in legacy mode, which counts padded frames as the official "
                "code does; an index keeps real frames only. Convert the checkpoint without --legacy to "
                "search with it"
            )
        return ModelSpec(
            name=self._name or model.name,
            fingerprint=self._fingerprint or "",
            width=model.width,
            frames_per_clip=model.frames_per_clip,
            parts=tuple(sorted(model.index_parts)),
        )

    def weights(self) -> RerankWeights:
        search = self.load().search
        return RerankWeights(**asdict(search))


def _reference(name: str) -> str:
    """A model's name that means the same from every working folder."""
    bundled = os.path.join(os.path.dirname(os.path.abspath(vidsift.__file__)), "bundled", name)
    expanded = os.path.expanduser(name)
    return os.path.abspath(expanded) if os.path.isdir(expanded) and not os.path.isdir(bundled) else name
