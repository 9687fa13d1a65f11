"""TS2-Net's work on patch tokens: moving some between neighbouring frames, and choosing the telling ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.layers import init_linear

# Noise drawn at once, in numbers; 32 MB.
_NOISE = 1 << 23


# -- shift -----------------------------------------------------------------------------------------------


class Neighbours:
    """For each real frame of a batch of clips, in flat order, the rows of the frames before and after it.

    before, after: [N] int64; a clip's first and last real frames are their own neighbours.
    """

    def __init__(self, mask: Tensor) -> None:
        """mask: [V, F] bool, True on the frames that go through the tower."""
        clip = mask.nonzero()[:, 0]
        self.row = row = torch.arange(len(clip), device=mask.device)
        same = clip[1:] == clip[:-1]
        no = same.new_zeros(1)
        self.before = row - torch.cat([no, same]).long()
        self.after = row + torch.cat([same, no]).long()


def shift_tokens(tokens: Tensor, neighbours: Neighbours, division: int = 7, first: int = 1) -> Tensor:
    """Give some tokens of every frame the place of a neighbour's (TS2-Net, ECCV 2022, token shift).

    With step = N // division, tokens first, first + step, ... come from the frame before, and tokens
    first + 3, first + 3 + step, ... from the frame after, if there is one; where both meet, the latter wins.
    Whole tokens move. With fewer tokens than `division` there is one of each kind at most.

    tokens: [frames, N, C].  first: 1 keeps the class token out of it.
    """
    step = tokens.shape[1] // division or tokens.shape[1]
    moved = tokens.clone()
    moved[:, first::step] = tokens[neighbours.before, first::step]
    later = slice(first + 3, None, step)
    last = (neighbours.after == neighbours.row)[:, None, None]
    moved[:, later] = torch.where(last, moved[:, later], tokens[neighbours.after, later])
    return moved


# Set around one call of the vision tower; a context variable, so that threads do not see each other's frames.
_current: ContextVar[Neighbours | None] = ContextVar("neighbours", default=None)


class TokenShift:
    """A hook before an attention layer: its input is shifted while `shifting` is in force, else left alone.

    The residual stream is not shifted, and nothing is shifted back.
    """

    def __init__(self, division: int, first: int) -> None:
        self.division, self.first = division, first

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        neighbours = _current.get()
        if neighbours is None:
            return None
        if args:
            return (shift_tokens(args[0], neighbours, self.division, self.first), *args[1:]), kwargs
        moved = shift_tokens(kwargs["hidden_states"], neighbours, self.division, self.first)
        return args, {**kwargs, "hidden_states": moved}


@contextmanager
def shifting(mask: Tensor) -> Iterator[None]:
    """Let the hooked layers take the frames of a mask [V, F], in flat order, as neighbours in their clips."""
    token = _current.set(Neighbours(mask))
    try:
        yield
    finally:
        _current.reset(token)


# -- selection -------------------------------------------------------------------------------------------


class TokenScorer(nn.Module):
    """How telling each token of a frame is, in view of the frame: tanh scores.

    h = gelu(inner(norm(x)))        score = tanh(last(gelu(outer([h, h_class]))))
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, half, bias=False)
        self.outer = nn.Linear(2 * half, half, bias=False)
        self.last = nn.Linear(half, 1, bias=False)
        for layer in (self.inner, self.outer, self.last):
            init_linear(layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [..., 1 + P, D], the frame's own vector first.  Returns the patches' scores [..., P]."""
        h = F.gelu(self.inner(self.norm(tokens)))
        patches, whole = h[..., 1:, :], h[..., :1, :]
        both = torch.cat([patches, whole.expand_as(patches)], -1)
        found: Tensor = self.last(F.gelu(self.outer(both))).squeeze(-1).tanh()
        return found


def top_tokens(scores: Tensor, k: int) -> Tensor:
    """Indicator of the k highest scores, in order of position: [N, k, P], one-hot rows.

    scores: [N, P].  Of equal scores the earlier wins.
    """
    chosen = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
    return F.one_hot(chosen, scores.shape[-1]).to(scores.dtype)


def perturbed_top_tokens(
    scores: Tensor,
    k: int,
    samples: int = 500,
    sigma: float = 0.05,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`top_tokens` averaged over noisy scores, so that scores get a gradient (Berthet et al., NeurIPS 2020).

        Y = mean_n top(s + sigma z_n)        dY_kd / ds_d = mean_n top(s + sigma z_n)_kd z_nd / sigma

    and, as in the official code, the derivatives of Y_kd by other scores than s_d are left out.

    scores: [N, P].  noise: z, [N, samples, P] standard normal; None draws it from `generator`, whose device
        must be that of the scores.  Returns [N, k, P]; each of the k rows sums to 1.
    """
    indicator: Tensor = _Perturbed.apply(scores, k, samples, sigma, noise, generator)  # type: ignore[no-untyped-call]
    return indicator


class _Perturbed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        k: int,
        samples: int,
        sigma: float,
        noise: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        n, p = scores.shape
        exact = scores.detach().float()
        indicator, slope = exact.new_zeros(n, k, p), exact.new_zeros(n, k, p)
        step = max(1, _NOISE // (samples * p))
        for i in range(0, n, step):
            rows = exact[i : i + step].unsqueeze(1)
            if noise is None:
                shape = (len(rows), samples, p)
                z = torch.randn(shape, generator=generator, device=scores.device)
            else:
                z = noise[i : i + step].float()
            chosen = (rows + sigma * z).topk(k, dim=-1, sorted=False).indices.sort(-1).values
            drawn = z.gather(-1, chosen).transpose(1, 2)
            chosen = chosen.transpose(1, 2)  # [rows, k, samples]
            indicator[i : i + step].scatter_add_(-1, chosen, torch.ones_like(drawn))
            slope[i : i + step].scatter_add_(-1, chosen, drawn)
        ctx.save_for_backward(slope / (samples * sigma))
        return (indicator / samples).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        gradient = (gradients[0] * slope).sum(1).to(gradients[0].dtype)
        return gradient, None, None, None, None, None
