"""BertAdam, the optimiser of the whole CLIP4Clip family, kept to repeat published training runs exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor of the learning rate after a share of all steps: a line up to `warmup`, then a cosine to 0.

    The cosine is not shifted by the warm-up, so the factor drops where the line ends (from 1 to 0.976 for
    0.1): that is what the published runs used.
    """
    return progress / warmup if progress < warmup else 0.5 * (1.0 + math.cos(math.pi * progress))


class BertAdam(Optimizer):
    """Adam without bias correction, with decoupled decay, per-tensor clipping and its schedule inside.

    Per tensor p with gradient g at step s = 0, 1, ...:
        g <- g min(1, max_grad_norm / (|g| + 1e-6))
        m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        p <- p - lr schedule(s / total_steps) (m / (sqrt(v) + eps) + weight_decay p)
    The first step moves nothing, because the schedule starts at 0. A tensor without a gradient is skipped
    and keeps its own count of steps.

    params: tensors or groups; `lr` and `weight_decay` may differ by group.  warmup: share of the steps.
    total_steps: of the schedule; the reference allows a fraction.
    New recipes should take `torch.optim.AdamW`; with the published lr of 1e-7 for CLIP this optimiser
    depended on half-precision weights.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        total_steps: float,
        *,
        warmup: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_grad_norm: float = 1.0,
    ) -> None:
        if lr < 0 or total_steps <= 0 or not 0 <= warmup < 1:
            raise ValueError(f"lr {lr}, total_steps {total_steps}, warmup {warmup}: not a schedule")
        defaults = {
            "lr": lr,
            "total_steps": total_steps,
            "warmup": warmup,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }
        super().__init__(params, defaults)

    def current_lr(self) -> list[float]:
        """The rate of the coming step for every tensor that has moved; [0.0] before the first step."""
        rates = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p not in self.state:
                        return [0.0]
                    rates.append(_rate(group, self.state[p]["step"]))
        return rates

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        b1, b2 = group["betas"]
        if group["max_grad_norm"] > 0:
            length = torch.linalg.vector_norm(gradient)
            gradient = gradient * (group["max_grad_norm"] / (length + 1e-6)).clamp_max(1.0)
        state["mean"].mul_(b1).add_(gradient, alpha=1 - b1)
        state["square"].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        update = state["mean"] / (state["square"].sqrt() + group["eps"])
        update = update.add_(p, alpha=group["weight_decay"])
        p.add_(update, alpha=-_rate(group, state["step"]))
        state["step"] += 1


def _rate(group: dict[str, Any], step: int) -> float:
    return float(group["lr"]) * warmup_cosine(step / group["total_steps"], group["warmup"])
