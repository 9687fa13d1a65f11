"""One step of training: features, the loss over all processes, gradients; large batches in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidsift.features.inputs import Pictures, Texts
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.training.distributed import World, gather
from vidsift.training.objective import Objective
from vidsift.training.teachers import TeacherSignals

Features = TypeVar("Features", TextFeatures, ClipFeatures)
_GIB = 2**30


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch, text i matching clip i, and what is known of the whole of it.

    ids: [B] numbers of the clips of the whole batch, in order of rank.  signals: of the whole batch.
    reference: the texts of the whole batch as the text tower said them that a compact one follows.
    """

    texts: Texts
    pictures: Pictures
    ids: Tensor
    signals: TeacherSignals | None = None
    reference: Texts | None = None

    def where(self, kept: Tensor) -> Batch:
        """The pairs at which a mask [B] is True; for a batch that no other process shares."""
        signals = None if self.signals is None else self.signals.where(kept)
        reference = None if self.reference is None else self.reference.select(kept)
        return Batch(self.texts.select(kept), self.pictures.select(kept), self.ids[kept], signals, reference)


class StepRunner:
    """Computes the loss of a batch and leaves its gradient in the parameters.

    chunk: pairs encoded at once. A larger share is encoded twice: first without keeping activations, to get
    the gradient of the loss with respect to the features; then chunk by chunk, to carry it into the weights
    (GradCache, Gao et al. 2021). The gradient is that of the whole batch. None encodes everything at once.
    """

    def __init__(
        self,
        model: RetrievalModel,
        objective: Objective,
        *,
        chunk: int | None = None,
        bf16: bool = False,
        world: World | None = None,
    ) -> None:
        self.model, self.objective, self.chunk, self.bf16 = model, objective, chunk, bf16
        self.world = world or World()

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Add the gradient of the batch to the parameters' own; returns the terms, `loss` among them.

        Where there are several processes the gradients still have to be averaged (`average_gradients`).
        """
        count = len(batch.texts)
        if self.chunk is None or self.chunk >= count:
            text, clips = self.encode(batch.texts, batch.pictures)
            terms = self._terms(text, clips, batch)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
        else:
            terms = self._in_chunks(batch, [slice(i, i + self.chunk) for i in range(0, count, self.chunk)])
        return {name: float(term.detach()) for name, term in terms.items()}

    def encode(self, texts: Texts, pictures: Pictures) -> tuple[TextFeatures, ClipFeatures]:
        """Features of texts and clips, under autocast where the recipe wants bf16."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            return texts.encode(self.model), pictures.encode(self.model)

    def _terms(self, text: TextFeatures, clips: ClipFeatures, batch: Batch) -> dict[str, Tensor]:
        text = text.map(lambda x: gather(x, self.world))
        clips = clips.map(lambda x: gather(x, self.world))
        device, signals = self.model.device, batch.signals
        if signals is not None:
            signals = signals.to(device)
        reference = None
        if batch.reference is not None:
            with torch.no_grad():
                reference = batch.reference.encode(self.model)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return self.objective(self.model, text, clips, batch.ids.to(device), signals, reference)

    def _in_chunks(self, batch: Batch, chunks: list[slice]) -> dict[str, Tensor]:
        states, texts, clips = [], [], []
        with torch.no_grad():
            for rows in chunks:
                states.append(_random_state(self.model.device))
                text, clip = self.encode(batch.texts.select(rows), batch.pictures.select(rows))
                texts.append(text)
                clips.append(clip)
        leaves: list[Tensor] = []
        text = TextFeatures.cat(texts).map(_leaf(leaves))
        clip = ClipFeatures.cat(clips).map(_leaf(leaves))
        terms = self._terms(text, clip, batch)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        gradients = [leaf.grad for leaf in leaves]
        for rows, state in zip(chunks, states, strict=True):
            with _replayed(state, self.model.device):
                again = self.encode(batch.texts.select(rows), batch.pictures.select(rows))
            _carry(_floating(*again), [None if g is None else g[rows] for g in gradients])
        return terms


def _leaf(leaves: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Makes every floating tensor a leaf that collects a gradient, and remembers it."""

    def make(x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = x.detach().requires_grad_()
            leaves.append(x)
        return x

    return make


def _floating(text: TextFeatures, clips: ClipFeatures) -> list[Tensor]:
    found: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        if x.is_floating_point():
            found.append(x)
        return x

    text.map(note)
    clips.map(note)
    return found


def _carry(outputs: list[Tensor], gradients: list[Tensor | None]) -> None:
    """Backward from features whose gradients are known."""
    total: Any = None
    for output, gradient in zip(outputs, gradients, strict=True):
        if gradient is None or not output.requires_grad:
            continue
        part = (output * gradient.to(output.dtype)).sum()
        total = part if total is None else total + part
    if total is not None:
        total.backward()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Noise as it was drawn before; the generators go on afterwards as if nothing had been drawn."""
    cpu, cuda = state
    with torch.random.fork_rng([device] if cuda is not None else [], device_type="cuda"):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        yield


def saved_bytes(model: torch.nn.Module, encode: Callable[[], object]) -> int:
    """Bytes that backward would keep of a computation, beside the model's own weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        memory = x.untyped_storage()
        if memory.data_ptr() not in weights:
            seen[memory.data_ptr()] = memory.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = encode()
    del kept
    return sum(seen.values())


def chunk_for(runner: StepRunner, batch: Batch, memory_gb: float) -> int | None:
    """Pairs whose activations fit into a budget, from what two pairs keep; None when the whole batch fits."""
    some = min(2, len(batch.texts))
    rows = slice(0, some)
    texts, pictures = batch.texts.select(rows), batch.pictures.select(rows)
    each = saved_bytes(runner.model, lambda: runner.encode(texts, pictures)) / some
    fits = max(1, int(memory_gb * _GIB / max(each, 1.0)))
    return None if fits >= len(batch.texts) else fits
