"""Key sets and shapes of every published checkpoint format, filled with random numbers, and a vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from vidsift.models.text import TextTokenizer

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """ViT-B/32, W 32 and F 12 by default."""

    vision: int = 768
    text: int = 512
    joint: int = 512
    patch: int = 32
    grid: int = 7
    vision_layers: int = 12
    text_layers: int = 12
    temporal_layers: int = 4
    vocabulary: int = 49408
    words: int = 32
    frames: int = 12


FULL = Sizes()
# Twelve vision layers all the same: TS2-Net wraps the eleventh and twelfth.
TINY = Sizes(
    vision=64,
    text=64,
    joint=64,
    patch=4,
    grid=3,
    text_layers=2,
    temporal_layers=2,
    vocabulary=60,
    words=9,
    frames=5,
)


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def blocks(name: str, count: int, width: int) -> Shapes:
    found: Shapes = {}
    for i in range(count):
        at = f"{name}.{i}"
        found |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
        found |= linear(f"{at}.attn.out_proj", width, width)
        found |= norm(f"{at}.ln_1", width) | norm(f"{at}.ln_2", width)
        found |= linear(f"{at}.mlp.c_fc", 4 * width, width) | linear(f"{at}.mlp.c_proj", width, 4 * width)
    return found


def clip(s: Sizes, prefix: str = "clip.") -> Shapes:
    found: Shapes = {
        "visual.conv1.weight": (s.vision, 3, s.patch, s.patch),
        "visual.class_embedding": (s.vision,),
        "visual.positional_embedding": (s.grid**2 + 1, s.vision),
        "visual.proj": (s.vision, s.joint),
        "token_embedding.weight": (s.vocabulary, s.text),
        "positional_embedding": (77, s.text),
        "text_projection": (s.text, s.joint),
        "logit_scale": (),
        **norm("visual.ln_pre", s.vision),
        **norm("visual.ln_post", s.vision),
        **norm("ln_final", s.text),
        **blocks("visual.transformer.resblocks", s.vision_layers, s.vision),
        **blocks("transformer.resblocks", s.text_layers, s.text),
    }
    return {prefix + key: shape for key, shape in found.items()}


def huggingface(s: Sizes, prefix: str = "clip.") -> Shapes:
    found: Shapes = {
        "logit_scale": (),
        "text_projection.weight": (s.joint, s.text),
        "visual_projection.weight": (s.joint, s.vision),
        "text_model.embeddings.token_embedding.weight": (s.vocabulary, s.text),
        "text_model.embeddings.position_embedding.weight": (77, s.text),
        "text_model.embeddings.position_ids": (1, 77),
        "vision_model.embeddings.class_embedding": (s.vision,),
        "vision_model.embeddings.patch_embedding.weight": (s.vision, 3, s.patch, s.patch),
        "vision_model.embeddings.position_embedding.weight": (s.grid**2 + 1, s.vision),
        "vision_model.embeddings.position_ids": (1, s.grid**2 + 1),
        **norm("text_model.final_layer_norm", s.text),
        **norm("vision_model.pre_layrnorm", s.vision),
        **norm("vision_model.post_layernorm", s.vision),
    }
    towers = (("vision_model", s.vision_layers, s.vision), ("text_model", s.text_layers, s.text))
    for tower, count, width in towers:
        for i in range(count):
            at = f"{tower}.encoder.layers.{i}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                found |= linear(f"{at}.self_attn.{part}", width, width)
            found |= norm(f"{at}.layer_norm1", width) | norm(f"{at}.layer_norm2", width)
            found |= linear(f"{at}.mlp.fc1", 4 * width, width) | linear(f"{at}.mlp.fc2", width, 4 * width)
    return {prefix + key: shape for key, shape in found.items()}


def temporal(s: Sizes) -> Shapes:
    stack = blocks("transformerClip.resblocks", s.temporal_layers, s.joint)
    return {"frame_position_embeddings.weight": (77, s.joint), **stack}


def cross(s: Sizes) -> Shapes:
    return {
        "cross.embeddings.position_embeddings.weight": (77, s.joint),
        **blocks("cross.transformer.resblocks", s.temporal_layers, s.joint),
        **norm("cross.pooler.ln_pool", s.joint),
        **linear("cross.pooler.dense", s.joint, s.joint),
        **linear("similarity_dense", 1, s.joint),
    }


def lstm(s: Sizes) -> Shapes:
    d = s.joint
    weights: Shapes = {f"lstm_visual.weight_{x}_l0": (4 * d, d) for x in ("ih", "hh")}
    biases: Shapes = {f"lstm_visual.bias_{x}_l0": (4 * d,) for x in ("ih", "hh")}
    return {"frame_position_embeddings.weight": (77, d), **weights, **biases}


def xclip(s: Sizes) -> Shapes:
    words: Shapes = dict.fromkeys(
        ("word_logit_weight", "word_mat_weight", "word_mat_weight2"), (s.words, s.words)
    )
    frames: Shapes = dict.fromkeys(
        ("frame_logit_weight", "frame_mat_weight", "frame_mat_weight2"), (s.frames, s.frames)
    )
    width: Shapes = dict.fromkeys(("global_mat_weight", "local_mat_weight"), (s.joint, s.joint))
    return clip(s) | temporal(s) | width | words | frames


def ts2net(s: Sizes) -> Shapes:
    wrapped: Shapes = {}
    for key, shape in clip(s).items():
        late = any(f"visual.transformer.resblocks.{i}.attn." in key for i in (10, 11))
        wrapped[key.replace(".attn.", ".attn.net.") if late else key] = shape
    at, half = "visual_token_selector.score_predictor", s.joint // 2
    unused = {
        **norm("text_token_selector.score_predictor.in_conv.0", s.joint),
        "visual_prompt_encoder.conv1.weight": (s.vision, 3, s.patch, s.patch),
        "visual_prompt_encoder.positional_embedding": (4, s.vision),
        **norm("visual_prompt_encoder.layer_norm", s.vision),
    }
    return {
        **wrapped,
        **temporal(s),
        **norm(f"{at}.in_conv.0", s.joint),
        f"{at}.in_conv.1.weight": (half, s.joint),
        f"{at}.out_conv.0.weight": (half, s.joint),
        f"{at}.out_conv.2.weight": (1, half),
        **unused,
    }


def xpool(s: Sizes) -> Shapes:
    found = huggingface(s)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"pool_frames.cross_attn.{part}", s.joint, s.joint)
    found |= linear("pool_frames.linear_proj", s.joint, s.joint)
    for i in (1, 2, 3):
        found |= norm(f"pool_frames.layer_norm{i}", s.joint)
    return found


def teachclip(s: Sizes) -> Shapes:
    attention = linear("frameLinear", s.joint, s.joint) | linear("frameLinear2", 1, s.joint)
    return clip(s) | temporal(s) | attention


def eercf(s: Sizes) -> Shapes:
    matrices: Shapes = {
        "global_mat_weight": (s.joint, s.joint),
        "frame_logit_weight": (s.frames, s.frames),
    }
    return clip(s) | temporal(s) | matrices


def batch_norm(name: str, width: int) -> Shapes:
    statistics: Shapes = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return norm(name, width) | statistics | {f"{name}.num_batches_tracked": ()}


def ce(s: Sizes) -> Shapes:
    """MSR-VTT's nine experts; clusters and widths are smaller in the tiny one."""
    full = s is FULL
    shared, text, clusters = (768, 768, 28) if full else (24, 20, 3)
    pooled = {"audio": (128, 8), "ocr": (300, 43), "speech": (300, 19)}
    fixed = {"face": 512, "i3d": 1024, "resnext": 2048, "senet": 2048, "r2p1d": 512, "scene": 2208}
    order = ["audio", "face", "i3d", "resnext", "senet", "ocr", "r2p1d", "scene", "speech"]
    found: Shapes = {
        "text_pooling.clusters": (text, clusters + 1),
        "text_pooling.clusters2": (1, text, clusters),
        **batch_norm("text_pooling.batch_norm", clusters + 1),
        **linear("ce.moe_fc", len(order), text * clusters),
        **linear("ce.g_reason_1", shared, 2 * shared),
        **batch_norm("ce.g_reason_shared.0", shared),
        **linear("ce.g_reason_shared.2", shared, shared),
        **batch_norm("ce.g_reason_shared.3", shared),
        **linear("ce.g_reason_shared.5", shared, shared),
    }
    for name, (dim, count) in pooled.items():
        found |= {f"pooling.{name}.clusters": (dim, count), f"pooling.{name}.clusters2": (1, dim, count)}
        found |= batch_norm(f"pooling.{name}.batch_norm", count)
    for i, name in enumerate(order):
        dim, count = pooled.get(name, (fixed.get(name, 0), 1))
        found |= linear(f"ce.video_dim_reduce.{i}.fc", shared, dim * count)
        found |= linear(f"ce.video_GU.{i}.cg.fc", shared, shared)
        found |= batch_norm(f"ce.video_GU.{i}.cg.batch_norm", shared)
        found |= batch_norm(f"ce.video_GU.{i}.cg.batch_norm2", shared)
        found |= linear(f"ce.text_GU.{i}.fc", shared, text * clusters)
        found |= linear(f"ce.text_GU.{i}.cg.fc", shared, shared)
        found |= batch_norm(f"ce.text_GU.{i}.cg.batch_norm", shared)
    return found


# Name -> (family after --from, method that comes out, its keys).
CHECKPOINTS: dict[str, tuple[str, str, Callable[[Sizes], Shapes]]] = {
    "clip4clip-meanP": ("clip4clip", "meanp", clip),
    "clip4clip-seqLSTM": ("clip4clip", "seqlstm", lambda s: clip(s) | lstm(s)),
    "clip4clip-seqTransf": ("clip4clip", "seqtransf", lambda s: clip(s) | temporal(s)),
    "clip4clip-tightTransf": ("clip4clip", "tighttransf", lambda s: clip(s) | cross(s)),
    "xclip": ("xclip", "xclip", xclip),
    "ts2net": ("ts2net", "ts2net", ts2net),
    "xpool": ("xpool", "xpool", xpool),
    "teachclip": ("teachclip", "teachclip", teachclip),
    "eercf": ("eercf", "eercf", eercf),
    "ce": ("ce", "ce", ce),
    "openai-clip": ("openai-clip", "meanp", lambda s: clip(s, "")),
}
UNUSED = {
    "clip4clip-seqLSTM": {"frame_position_embeddings.weight"},
    "xpool": {f"clip.{t}_model.embeddings.position_ids" for t in ("text", "vision")},
    "ts2net": {k for k in ts2net(TINY) if k.startswith(("text_token_selector.", "visual_prompt_encoder."))},
    "ce": {k for k in ce(TINY) if k.endswith("num_batches_tracked")},
}


def random_state(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors of these shapes; LayerNorms, embeddings and scalars stay float32, as published."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for key, shape in shapes.items():
        if key.endswith(("num_batches_tracked", "position_ids")):
            found[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        value = torch.randn(shape, generator=generator).mul_(0.02)
        half = len(shape) >= 2 and "embedding" not in key
        found[key] = value.to(dtype) if half else value
    return found


def tokenizer(vocabulary: int) -> TextTokenizer:
    """Start and end have the two largest ids, as in OpenAI's vocabulary; every token is a word."""
    start, end = vocabulary - 2, vocabulary - 1
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w1"))
    backend.post_processor = TemplateProcessing(
        single=f"w{start} $A w{end}", special_tokens=[(f"w{start}", start), (f"w{end}", end)]
    )
    return TextTokenizer(backend, pad_id=0, max_length=77)
