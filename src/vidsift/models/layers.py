"""Layers that several methods share: CLIP's residual block, and the temporal stack over frames made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.backbone import Backbone

# What the official code adds to the attention logits of padding, where it should exclude it.
PADDING_LOGIT = -1e6
_INIT_STD = 0.02


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def head_count(width: int) -> int:
    """CLIP's rule, one head per 64 channels; the next smaller number that divides other widths."""
    return next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)


def key_bias(mask: Tensor, legacy: bool = False) -> Tensor:
    """Turn a mask of keys into what is added to attention logits: 0 where real, -inf (legacy -1e6) else.

    mask: [N, L] bool.  Returns [N, 1, 1, L] float32, for all heads and queries. A row without real keys is
    all zero, so that attention stays finite; whatever it gives there must be masked afterwards.
    """
    bias = torch.zeros(mask.shape, device=mask.device)
    if legacy:
        bias = bias.masked_fill(~mask, PADDING_LOGIT)
    else:
        bias = bias.masked_fill(~mask & mask.any(-1, keepdim=True), -torch.inf)
    return bias[:, None, None, :]


class ResidualBlock(nn.Module):
    """CLIP's pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)), with QuickGELU and a 4x MLP.

    eps: of both LayerNorms; 1e-12 in the temporal stacks of the CLIP4Clip family, 1e-5 in CLIP itself.
    """

    def __init__(self, width: int, heads: int | None = None, eps: float = 1e-12) -> None:
        super().__init__()
        self.heads = heads or head_count(width)
        if width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the width {width}")
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.qkv, self.out, self.up, self.down):
            init_linear(layer)

    def forward(self, x: Tensor, bias: Tensor | None = None, queries: int | None = None) -> Tensor:
        """x: [N, L, D].  bias: added to the attention logits, broadcastable to [N, heads, L, L].

        queries: compute only the first so many rows of the result, for a last block that is read only there.
        """
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = None if bias is None else bias.to(query.dtype)
        seen = F.scaled_dot_product_attention(query[:, :, :queries], key, value, attn_mask=bias)
        x = x[:, :queries]
        x = x + self.out(seen.transpose(1, 2).reshape(n, -1, width))
        moved: Tensor = x + self.down(quick_gelu(self.up(self.norm2(x))))
        return moved

    @torch.no_grad()
    def copy_from(self, layer: nn.Module) -> None:
        """Take over the weights of a block of a transformers tower, whose query, key and value are apart."""
        attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
        for part in ("weight", "bias"):
            qkv = [getattr(attention.get_submodule(f"{p}_proj"), part) for p in "qkv"]
            getattr(self.qkv, part).copy_(torch.cat(qkv))
            for ours, theirs in (
                (self.out, attention.get_submodule("out_proj")),
                (self.norm1, layer.get_submodule("layer_norm1")),
                (self.norm2, layer.get_submodule("layer_norm2")),
                (self.up, mlp.get_submodule("fc1")),
                (self.down, mlp.get_submodule("fc2")),
            ):
                getattr(ours, part).copy_(getattr(theirs, part))


class TemporalStack(nn.Module):
    """Blocks over a sequence with learned positions, added to the sequence: TR(x) + x (CLIP4Clip, seqTransf).

    positions: rows of the position table. A longer sequence uses the table again from its start, so that
    padding never changes which position a real entry has.
    """

    def __init__(
        self, width: int, layers: int = 4, positions: int = 77, heads: int | None = None, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, width).normal_(std=_INIT_STD))
        self.blocks = nn.ModuleList(ResidualBlock(width, heads, eps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, legacy: bool = False) -> Tensor:
        """Return TR(x) + x: [N, L, D].

        x: [N, L, D].  mask: [N, L] bool, True on real entries, the only ones that are attended to; what
        comes out where it is False means nothing.  legacy: mask as the official code does.
        """
        return self.transformed(x, mask, legacy) + x

    def transformed(self, x: Tensor, mask: Tensor, legacy: bool = False) -> Tensor:
        """TR(x), without the outer residual; arguments as for `forward`."""
        bias = key_bias(mask, legacy)
        index = torch.arange(x.shape[1], device=x.device) % self.positions.shape[0]
        x = x + self.positions[index]
        for block in self.blocks:
            x = block(x, bias)
        return x

    def start_from_text(self, backbone: Backbone) -> None:
        """Copy the text tower's positions and first blocks, as the official code starts its stack.

        A text tower of another width than the stack's leaves the random initialisation as it is.
        """
        config = backbone.config.text_config
        if int(config.hidden_size) != self.positions.shape[1]:
            return
        table = backbone.model.text_model.embeddings.position_embedding.weight.detach()
        rows = min(len(table), len(self.positions))
        with torch.no_grad():
            self.positions[:rows].copy_(table[:rows])
        if int(config.intermediate_size) == 4 * int(config.hidden_size):
            for block, layer in zip(self.blocks, backbone.text_layers, strict=False):
                assert isinstance(block, ResidualBlock)
                block.copy_from(layer)


class FramePeaks(nn.Module):
    """What is there in any frame: a wide layer's greatest values over the frames, through an MLP back to D.

    A mean over frames makes what is seen in one of four scenes four times fainter; a maximum does not.
    Starts near zero, so that a model begins almost as without it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.mix = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        init_linear(self.down)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames: unit vectors [V, F, D].  mask: [V, F] bool.  Returns [V, D], zero for an empty clip."""
        some = mask.any(-1, keepdim=True)
        seen = self.up(frames * frames.shape[-1] ** 0.5)
        highest = seen.masked_fill(~mask.unsqueeze(-1), torch.finfo(seen.dtype).min).amax(1)
        found: Tensor = self.down(F.gelu(self.mix(highest.masked_fill(~some, 0.0))))
        return found.masked_fill(~some, 0.0)


def init_linear(layer: nn.Linear) -> None:
    """Start a linear layer as the official heads do: weights from N(0, 0.02), bias 0."""
    nn.init.normal_(layer.weight, std=_INIT_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
