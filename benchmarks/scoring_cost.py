"""What a query costs against clips that are encoded already: per pair and per clip kept, for every method.

Heads are freshly initialised and features random, which changes no cost. One thread, fp32, CPU time. Beside
each method stands, where we could re-create it, the work of the official evaluation for the same scores
("official work"): the operations of the official code in their order, on our layers, with the towers' vectors
at hand. That both give the same scores is checked in the same run.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from _report import REPORTS, spread, write
from vidsift.index.rerank import rerank
from vidsift.index.reranking import pack_parts
from vidsift.index.scan import Exact
from vidsift.index.types import quantise
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures, list_methods
from vidsift.models.backbone import TextVectors
from vidsift.models.pooling import unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

D, FRAMES, WORDS, PATCHES, TEXTS = 512, 12, 32, 49, 32
CANDIDATES = 100
# Clips that are encoded; more clips are copies of them, which cost the same to score.
ENCODED = 500
# Costs that grow with the pairs are measured on fewer clips where a pair is dear.
SAMPLE = {"tighttransf": 64, "eercf + patches": ENCODED}
# What the methods' evaluations use as video batch: CLIP4Clip 16, X-CLIP 40, TS2-Net 8.
BATCH = {"seqtransf": 16, "xclip": 40, "ts2net": 8}
# Measured with the official code itself on such a machine (one core, one query), in us per pair.
REFERENCE = {
    "meanp": "0.07-0.18 (pooled vector)",
    "seqtransf": "4,104 (official evaluation)",
    "xclip": "4,327 (official evaluation); 32 (clips precomputed)",
    "ts2net": "19,600 (official evaluation); 3.9-7.3 (clips precomputed)",
    "xpool": "170-186 (keys and values projected per query); 24 (these stored)",
}

Score = Callable[[TextFeatures, ClipFeatures], Tensor]


# -- features --------------------------------------------------------------------------------------------


class Source:
    """Random raw vectors as towers give them: frames lie around their clip, words around their sentence.

    frames: [ENCODED, F, D].  sentence: [T, D].  words: [T, W, D].  All frames and all words are real.
    """

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        centres = torch.randn(ENCODED, 1, D)
        self.frames = 0.4 * (centres + torch.randn(ENCODED, FRAMES, D))
        self.sentence = 0.4 * (centres[:TEXTS, 0] + 2.0 * torch.randn(TEXTS, D))
        self.words = self.sentence.unsqueeze(1) + 0.4 * torch.randn(TEXTS, WORDS, D)

    def model(self, method: str, **settings: Any) -> RetrievalModel:
        """A method whose towers are replaced by these vectors; its own layers are freshly initialised."""
        shape = ClipShape(
            image_size=56, vision_width=64, vision_layers=2, text_width=64, text_layers=1, projection=D
        )
        model = new_clip_model(build_word_tokenizer(["clip"]), shape, method=method, **settings).eval()

        def frames(vectors: Tensor, mask: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
            noise = 0.4 * torch.randn(*vectors.shape[:2], PATCHES, D) if patches else None
            return vectors, None if noise is None else vectors.unsqueeze(2) + noise

        model.encode_real_frames = frames  # type: ignore[method-assign, assignment]
        model.backbone.encode_tokens = (  # type: ignore[method-assign]
            lambda ids, mask: TextVectors(self.sentence, self.words)
        )
        return model

    def encode(self, model: RetrievalModel) -> tuple[TextFeatures, ClipFeatures]:
        """Features of all texts and of ENCODED clips."""
        ids = torch.zeros(TEXTS, WORDS, dtype=torch.long)
        mask = torch.ones(ENCODED, FRAMES, dtype=torch.bool)
        parts = [model.encode_video(self.frames[i : i + 50], mask[i : i + 50]) for i in range(0, ENCODED, 50)]
        return model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)), ClipFeatures.cat(parts)


@contextmanager
def products_in_bf16() -> Iterator[None]:
    """Let processors multiply in bf16 and sum in fp32, where they can: torch's setting for all matrices."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def copies(clips: ClipFeatures, number: int) -> ClipFeatures:
    """`number` clips, each in memory of its own."""
    return clips.select(torch.arange(number) % len(clips))


def lengthened(vectors: Tensor) -> Tensor:
    """Vectors [..., D] of the same directions and of any lengths, as layers give them."""
    return vectors * (1 + torch.rand(*vectors.shape[:-1], 1))


def kept(model: RetrievalModel, clips: ClipFeatures) -> tuple[int, int]:
    """Bytes per clip of what the index keeps: as fp32, and as the index stores it."""
    one = clips.select(slice(0, 1))
    parts = {"coarse": one.coarse, "frames": one.frames, "patches": one.patches, **one.extra}
    numbers = sum(part.numel() for name in model.index_parts if (part := parts[name]) is not None)
    times = torch.arange(one.mask.shape[1]).double().numpy()
    stored = quantise(one.coarse[0].numpy(), one.frames[0].numpy(), one.mask[0].numpy(), times)
    rest = pack_parts(one, model.index_parts)
    return 4 * numbers, stored.coarse.nbytes + stored.frames.nbytes + stored.scales.nbytes + len(rest)


# -- the work of the official evaluations ------------------------------------------------------------------


OFFICIAL, AT_ONCE = "official work", "official work, all clips in one call"
STORED = "official work, keys and values stored"
RERUN = "official work, temporal transformer per query batch"


def in_batches(size: int, score: Score) -> Score:
    """Score clips in batches of the official evaluation's size."""
    return lambda text, clips: torch.cat(
        [score(text, clips.select(slice(i, i + size))) for i in range(0, len(clips), size)], 1
    )


def rerun_temporal(model: Any) -> Score:
    """The temporal transformer is run again for every batch of queries, then the clips are scored.

    extra of clips: `raw`, the towers' frame vectors, or for TS2-Net `tokens`, the selected four per frame.
    """

    def score(text: TextFeatures, clips: ClipFeatures) -> Tensor:
        if "tokens" in clips.extra:
            fresh = model.token_features(clips.extra["tokens"], clips.mask)
        else:
            fresh = model.clip_features(clips.extra["raw"], clips.mask)
        scores: Tensor = model.similarity(text, fresh)
        return scores

    return in_batches(BATCH[model.method], score)


def mixed(x: Tensor, matrix: Tensor, dim: int, temperature: float) -> Tensor:
    """sum over `dim` of (softmax(x / tau) M) x, as written in the paper."""
    x = x.movedim(dim, -1)
    return ((x / temperature).softmax(-1) @ matrix * x).sum(-1)


def xclip_contrasts(model: Any) -> Score:
    """Vectors brought to unit length, and frames pooled, in every call; four contrasts; all frame-word
    cosines of a batch of clips are held at once, padding among them.

    extra of clips: `raw_frames` and `contextual`, what the tower and the temporal transformer gave.
    """
    head, tau = model.head, 0.01

    def score(text: TextFeatures, clips: ClipFeatures) -> Tensor:
        words, sentence = unit(text.words), text.sentence
        frames, real = unit(clips.extra["raw_frames"]), clips.mask.unsqueeze(-1)
        coarse = unit((unit(clips.extra["contextual"]) * real).sum(1) / real.sum(1))
        whole = sentence @ head.sentence_video @ coarse.T
        with_word = torch.einsum("twd,vd->twv", words, coarse)
        with_frame = torch.einsum("td,vfd->tvf", sentence, frames)
        pairs = torch.einsum("twd,vfd->twvf", words @ head.word_frame, frames)
        by_frame = mixed(pairs, head.words_first, 1, tau)  # [T, V, F]
        by_word = mixed(pairs, head.frames_first, 3, tau)  # [T, W, V]
        fine = mixed(by_frame, head.frames_last, 2, tau) + mixed(by_word, head.words_last, 1, tau)
        three = mixed(with_word, head.word_video, 1, tau) + mixed(with_frame, head.sentence_frame, 2, tau)
        scores: Tensor = model.backbone.logits((whole + three + fine / 2) / 4)
        return scores

    return score


def xpool_per_query(model: Any) -> Score:
    """Keys and values are projected in every call, and two more linear layers are applied to every pair.

    extra of clips: `raw`, the towers' frame vectors, or `official_keys` and `official_values`.
    """
    head = model.head

    def score(text: TextFeatures, clips: ClipFeatures) -> Tensor:
        if "raw" in clips.extra:
            normed = head.norm_in(clips.extra["raw"])
            keys, values = head.key(normed), head.value(normed)
        else:
            keys, values = clips.extra["official_keys"], clips.extra["official_values"]
        weights = (keys @ text.extra["query"].T).softmax(1)  # [V, F, T]
        attended = head.norm_attended(head.out(weights.transpose(1, 2) @ values))  # [V, T, D]
        pooled = head.norm_out(attended + head.linear(attended))
        scores: Tensor = model.backbone.logits(torch.einsum("td,vtd->tv", text.sentence, unit(pooled)))
        return scores

    return score


def ts2net_frames(model: Any) -> Score:
    """Frames brought to unit length in every call; cosines of frames and texts, scaled to unit length over
    the frames, then a softmax over frames; and all that a second time for a matrix that has no weight.

    extra of clips: `contextual`, what the temporal transformer gave.
    """

    def matrix(text: TextFeatures, frames: Tensor, mask: Tensor) -> Tensor:
        cosines = torch.einsum("vfd,td->vft", frames, text.sentence)
        sharp = cosines * mask.unsqueeze(-1)
        sharp = sharp / sharp.norm(dim=1, keepdim=True)
        weights = (4 * sharp.masked_fill(~mask.unsqueeze(-1), -1e18)).softmax(1)
        scores: Tensor = model.backbone.logits((weights * cosines).sum(1).T)
        return scores

    def score(text: TextFeatures, clips: ClipFeatures) -> Tensor:
        frames = unit(clips.extra["contextual"])
        return matrix(text, frames, clips.mask) + 0.0 * matrix(text, frames, clips.mask)

    return score


def eercf_all_pairs(model: Any) -> Score:
    """All five scores, patches among them, of every pair, though only the best 50 per text are used."""

    def gated(sentence: Tensor, keys: Tensor, values: Tensor, tau: float) -> Tensor:
        weights = (torch.einsum("td,vnd->tvn", sentence, keys) / tau).softmax(-1)
        pooled = unit(torch.einsum("tvn,vnd->tvd", weights, values))
        return torch.einsum("td,tvd->tv", sentence, pooled)

    def score(text: TextFeatures, clips: ClipFeatures) -> Tensor:
        t, c = text.sentence, model.config
        assert clips.patches is not None
        patches = clips.patches.flatten(1, 2)
        dots = torch.einsum("td,vnd->tvn", t, patches)
        parts = [
            c.video_weight * (t @ model.sentence_video @ clips.coarse.T),
            c.frame_weak_weight
            * mixed(torch.einsum("td,vfd->tvf", t, clips.frames), model.frame_mixing, 2, 0.01),
            c.patch_weak_weight * ((dots / 0.01).softmax(-1) * dots).sum(-1),
            c.frame_strong_weight * gated(t, clips.frames, clips.extra["contextual"], 0.1),
            c.patch_strong_weight * gated(t, patches, patches, 0.01),
        ]
        scores: Tensor = model.backbone.logits(sum(parts[1:], parts[0]))
        return scores

    return in_batches(50, score)


# -- measuring -----------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], repeats: int, budget: float = 3.0) -> list[float]:
    """CPU seconds of each repeat after one unmeasured call; at least three, fewer than `repeats` if dear."""
    work()
    spent: list[float] = []
    while len(spent) < 3 or (len(spent) < repeats and sum(spent) < budget):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return spent


class Bench:
    """Collects one row per method, who does the work, number of clips and number of queries."""

    def __init__(self, seed: int, repeats: int, counts: list[int]) -> None:
        self.source, self.seed, self.repeats, self.counts = Source(seed), seed, repeats, counts
        self.rows: list[dict[str, Any]] = []
        self.kept: dict[str, tuple[int, int]] = {}
        self.expected = torch.empty(0)

    def add(self, **row: Any) -> None:
        self.rows.append({**row, "seeds": [self.seed]})
        print(row, flush=True)

    def pairs(
        self, label: str, work: str, score: Score, text: TextFeatures, clips: ClipFeatures, limit: int = 0
    ) -> None:
        """Measure us per pair.  limit: score at most so many clips, and say so in the row."""
        if work != "ours" and "tokens" not in clips.extra:
            torch.testing.assert_close(
                score(text.select(slice(0, 2)), clips.select(slice(0, 80))),
                self.expected,
                rtol=1e-3,
                atol=1e-3,
            )
        known: dict[tuple[int, int], dict[str, Any]] = {}
        for count in self.counts:
            for queries in (1, TEXTS):
                number = min(count, limit or count)
                if queries > 1 and work != "ours":
                    number = min(number, 1000)  # the official arrays would take gigabytes
                if (number, queries) not in known:
                    some, many = text.select(slice(0, queries)), copies(clips, number)
                    spent = seconds(lambda s=some, m=many: score(s, m), self.repeats)  # type: ignore[misc]
                    known[number, queries] = spread([1e6 * s / (number * queries) for s in spent])
                self.add(
                    method=label,
                    work=work,
                    clips=count,
                    queries=queries,
                    scored=number,
                    us_per_pair=known[number, queries],
                )

    def search(self, label: str, model: RetrievalModel, text: TextFeatures, clips: ClipFeatures) -> None:
        """Measure one query of a search: a scan of all coarse vectors, then the score of the best."""
        one, number = text.select(slice(0, 1)), self.counts[-1]
        coarse = clips.coarse[torch.arange(number) % len(clips)]

        def run() -> Tensor:
            best = (one.sentence @ coarse.T)[0].topk(CANDIDATES).indices
            return model.similarity(one, clips.select(best % len(clips)))

        self.add(
            method=label,
            work="scan and rerank",
            clips=number,
            queries=1,
            candidates=CANDIDATES,
            ms_per_query=spread([1e3 * s for s in seconds(run, self.repeats)]),
        )

    def find(self, label: str, work: str, count: int, queries: int) -> dict[str, Any]:
        """The row of these, without its seeds; empty if there is none."""
        key = {"method": label, "work": work, "clips": count, "queries": queries}
        for row in self.rows:
            if all(row.get(k) == value for k, value in key.items()):
                return {k: value for k, value in row.items() if k != "seeds"}
        return {}

    def method(self, label: str, method: str, **settings: Any) -> None:
        """Everything about one method."""
        model: Any = self.source.model(method, **settings)
        text, clips = self.source.encode(model)
        self.kept[label] = kept(model, clips)
        self.expected = model.similarity(text.select(slice(0, 2)), clips.select(slice(0, 80)))
        self.pairs(label, "ours", model.similarity, text, clips, SAMPLE.get(label, 0))
        self.search(label, model, text, clips)
        raw = replace(clips, extra={**clips.extra, "raw": self.source.frames})
        if label in ("seqtransf", "xclip"):
            self.pairs(label, RERUN, rerun_temporal(model), text, raw, 80)
        if label == "xclip":
            given = {"raw_frames": lengthened(clips.frames)}
            given["contextual"] = lengthened(clips.coarse.unsqueeze(1).expand(clips.frames.shape))
            bare = replace(clips, extra=given)
            self.pairs(label, OFFICIAL, in_batches(BATCH[label], xclip_contrasts(model)), text, bare)
            self.pairs(label, AT_ONCE, xclip_contrasts(model), text, bare)
            short = replace(text, mask=torch.arange(WORDS).expand(TEXTS, WORDS) < 12)
            self.pairs("xclip, 12 real words", "ours", model.similarity, short, clips)
            self.kept["xclip, 12 real words"] = self.kept[label]
            with products_in_bf16():
                self.pairs("xclip, bf16 products", "ours", model.similarity, text, clips)
                rounded = model.similarity(text.select(slice(0, 2)), clips.select(slice(0, 80)))
            torch.testing.assert_close(rounded, self.expected, rtol=5e-3, atol=5e-3)
            self.kept["xclip, bf16 products"] = self.kept[label]
        if label == "ts2net":
            tokens = self.source.frames.unsqueeze(2) + 0.4 * torch.randn(ENCODED, FRAMES, 4, D)
            raw = replace(clips, extra={"tokens": tokens})
            self.pairs(label, RERUN, rerun_temporal(model), text, raw, 40)
            bare = replace(clips, extra={"contextual": lengthened(clips.frames)})
            # The cheapest for it: in the official evaluation's eight, calls cost more than their work; all
            # at once, the memory of what is brought to unit length does.
            self.pairs(label, OFFICIAL, in_batches(200, ts2net_frames(model)), text, bare)
        if label == "xpool":
            bare = replace(clips, extra={"raw": self.source.frames})
            self.pairs(label, OFFICIAL, xpool_per_query(model), text, bare)
            normed = model.head.norm_in(self.source.frames)
            stored = {"official_keys": model.head.key(normed), "official_values": model.head.value(normed)}
            self.pairs(label, STORED, xpool_per_query(model), text, replace(clips, extra=stored))
        if label == "eercf + patches":
            self.pairs(label, OFFICIAL, eercf_all_pairs(model), text, clips, 100)
        if label == "meanp":
            self.gated_search(text, clips)
        gc.collect()

    def gated_search(self, text: TextFeatures, clips: ClipFeatures) -> None:
        """The index's own search: its scan, and EERCF's parameter-free text-gated score of the best by int8
        frames."""
        number = self.counts[-1]
        sentence, at = text.sentence[0].numpy(), np.arange(number) % len(clips)
        exact = Exact(D, number)
        exact.add(clips.coarse.numpy()[at])
        scan, real = exact.scan(), np.ones(FRAMES, bool)
        vectors = [
            quantise(coarse, frames, real, np.arange(FRAMES).astype(np.float64))
            for coarse, frames in zip(clips.coarse.numpy(), clips.frames.numpy(), strict=True)
        ]
        frames, scales = (np.stack([getattr(v, part) for v in vectors])[at] for part in ("frames", "scales"))
        counts = np.full(number, FRAMES)

        def run() -> object:
            _, best = scan.best(sentence, CANDIDATES)
            return rerank(sentence, frames[best], scales[best], counts[best], 0.1)

        faiss.omp_set_num_threads(1)
        times = [1e3 * s for s in seconds(run, 10 * self.repeats)]
        self.add(
            method="text-gated pooling",
            work="scan and rerank",
            clips=number,
            queries=1,
            candidates=CANDIDATES,
            ms_per_query=spread(times),
        )


# -- the report --------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(bench: Bench) -> list[str]:
    """The report's table: one line per method and kind of work."""
    few, many = bench.counts[0], bench.counts[-1]
    lines = [
        "Microseconds of CPU per text-clip pair, median (least-greatest) of the repeats; kilobytes per clip.",
        f"D = {D}, F = {FRAMES}, W = {WORDS}, all frames and words real, fp32, one thread.",
        "",
        f"| method | work | 1 query x {few:,} | 1 x {many:,} | {TEXTS} x {few:,} | {TEXTS} x {many:,} "
        "| KB fp32 | KB in the index | official code, measured elsewhere |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for label, work in dict.fromkeys((r["method"], r["work"]) for r in bench.rows if "us_per_pair" in r):
        cells = []
        for queries in (1, TEXTS):
            for count in (few, many):
                row = bench.find(label, work, count, queries)
                found, star = row["us_per_pair"], "" if row["scored"] == count else f" [{row['scored']}]"
                cells.append(
                    f"**{number(found['median'])}** ({number(found['min'])}-{number(found['max'])}){star}"
                )
        mine = work == "ours"
        sizes = [f"{size / 1e3:,.1f}" for size in bench.kept[label]] if mine else ["", ""]
        reference = REFERENCE.get(label, "") if mine else ""
        lines.append(f"| {label} | {work} | {' | '.join([*cells, *sizes, reference])} |")
    lines += [
        "",
        "[n]: measured on n clips, because a pair is dear there or the official arrays would take gigabytes.",
        "Official work is not the official code: it is its operations in their order on our layers, all",
        "queries as one batch, from what the temporal transformer gave (X-CLIP and TS2-Net bring it to unit",
        "length in every call, and TS2-Net forms a second matrix that has no weight); it gave our scores in",
        "this run (TS2-Net's second run of the transformer has",
        f"tokens of its own, and is not compared). Clips are {ENCODED} encoded ones and copies of",
        "them. The last column was measured elsewhere on such a machine with the official code itself, one",
        "query, one core. Methods of one vector per clip: once clips are encoded, the official work is the",
        "same product. MoEE and CE: not re-created. bf16 products: torch's setting for fp32 matrices,",
        '`set_float32_matmul_precision("medium")`; the scores stay within 5e-3, which this run checks.',
        "",
        f"Searching {many:,} clips: a scan of all coarse vectors, then the method's own score of the best",
        f"{CANDIDATES}. Text-gated pooling: the index's own code, fp16 coarse vectors and int8 frames,",
        "EERCF's block without parameters, the default of the index. Milliseconds of CPU per query.",
        "",
        "| method | scan and rerank, ms | all clips by its own score, ms |",
        "|---|---:|---:|",
    ]
    for row in bench.rows:
        if row["work"] == "scan and rerank":
            found, own = row["ms_per_query"], bench.find(row["method"], "ours", many, 1)
            full = number(own["us_per_pair"]["median"] * many / 1e3) if own else ""
            spent = f"**{number(found['median'])}** ({number(found['min'])}-{number(found['max'])})"
            lines.append(f"| {row['method']} | {spent} | {full} |")
    return [*lines, "", "![Cost per query against bytes per clip](scoring_cost.png)"]


def plot(bench: Bench) -> None:
    """Draw milliseconds per query, all clips scored, against kilobytes per clip in the index."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    many = bench.counts[-1]
    figure, axes = pyplot.subplots(figsize=(9, 6), dpi=130)
    blue, red = "#2563a8", "#c2410c"
    groups: dict[tuple[str, float, float], list[str]] = {}

    def mark(label: str, work: str, size: float) -> None:
        row = bench.find(label, work, many, 1)
        if not row:
            return
        y, mine = row["us_per_pair"]["median"] * many / 1e3, work == "ours"
        face, edge = (blue, blue) if mine else ("none", red)
        axes.scatter(size, y, facecolors=face, edgecolors=edge, s=45 if mine else 90, zorder=3)
        after = {OFFICIAL: " (official)", RERUN: " (official, encoded anew)"}.get(work, "")
        near = (k for k in groups if k[0] == after and 0.95 < k[1] / size < 1.05 and 0.6 < k[2] / y < 1.6)
        groups.setdefault(next(near, (after, size, y)), []).append(label)

    for label, (_, size) in bench.kept.items():
        if "real words" not in label:
            for work in ("ours", OFFICIAL, RERUN):
                mark(label, work, size / 1e3)
    for (after, x, y), labels in groups.items():
        # An official cost that equals ours would be written over it.
        near = [k[2] for k in groups if not k[0] and k[1] == x and 0.5 < k[2] / y < 2]
        shift = (
            10,
            -3 if not after or not (near or "anew" in after) else 3 if min(near, default=0) < y else -12,
        )
        axes.annotate(
            ", ".join(labels) + after,
            (x, y),
            xytext=shift,
            textcoords="offset points",
            color=red if after else "black",
            fontsize=9,
        )
    axes.set(xscale="log", yscale="log", xlim=(6, 3000))
    axes.set_xlabel("kilobytes per clip in the index (coarse, frames as int8, the method's own parts)")
    axes.set_ylabel(f"CPU milliseconds per query, all {many:,} clips scored")
    axes.set_title(
        f"One query against {many:,} encoded clips, one thread, fp32, D = {D}, F = {FRAMES}, W = {WORDS}"
    )
    axes.scatter([], [], color=blue, s=45, label="vidsift")
    axes.scatter(
        [], [], facecolors="none", edgecolors=red, s=90, label="the official evaluation's operations"
    )
    axes.legend(loc="lower right", frameon=False)
    axes.grid(True, which="major", color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(REPORTS / "scoring_cost.png")


@torch.inference_mode()
def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="at most, of each measurement")
    parser.add_argument("--clips", type=int, nargs=2, default=[1000, 10000])
    parser.add_argument("--only", nargs="*", help="methods; then nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(chosen.seed, chosen.repeats, chosen.clips)
    names = chosen.only or list_methods()
    for name in names:
        bench.method(name, name)
    if not chosen.only or "eercf" in names:
        bench.method("eercf + patches", "eercf", patches=True)
    if chosen.only:
        return
    many = chosen.clips[-1]

    def cost(label: str, work: str = "ours", queries: int = 1) -> float:
        return float(bench.find(label, work, many, queries)["us_per_pair"]["median"])

    headline: dict[str, Any] = {
        f"us per pair, 1 x {many:,}, {name}": float(f"{cost(name):.3g}") for name in bench.kept
    }
    for label, name, works in (
        ("xpool", "xpool", [OFFICIAL]),
        ("xclip, as evaluated", "xclip", [RERUN]),
        ("xclip, clips precomputed, the cheaper way", "xclip", [OFFICIAL, AT_ONCE]),
    ):
        for queries in (1, TEXTS):
            ratio = min(cost(name, work, queries) for work in works) / cost(name, "ours", queries)
            headline[f"official / ours, {label}, {queries} x {many:,}"] = round(ratio, 1)
    for row in bench.rows:
        if row["work"] == "scan and rerank" and row["method"] in ("text-gated pooling", "eercf"):
            key = f"ms per query, scan {many:,} and rerank {CANDIDATES}, {row['method']}"
            headline[key] = round(row["ms_per_query"]["median"], 2)
    staged = next(
        row["ms_per_query"]["median"]
        for row in bench.rows
        if row["work"] == "scan and rerank" and row["method"] == "text-gated pooling"
    )
    for peer, works in (("ts2net", [OFFICIAL]), ("xclip", [OFFICIAL, AT_ONCE]), ("xpool", [OFFICIAL])):
        times = min(cost(peer, work) for work in works) * many / 1e3 / staged
        headline[f"official / the index's search, one query, {many:,} clips precomputed, {peer}"] = round(
            times
        )
    for row in bench.rows:
        if row["method"] in bench.kept:
            fp32, stored = bench.kept[row["method"]]
            row["bytes_per_clip_fp32"], row["bytes_per_clip_index"] = fp32, stored
    REPORTS.mkdir(exist_ok=True)
    plot(bench)
    packages = ("torch", "numpy", "transformers")
    print(
        write(
            "scoring_cost",
            headline=headline,
            rows=bench.rows,
            packages=packages,
            text="\n".join(table(bench)),
        )
    )


if __name__ == "__main__":
    main()
