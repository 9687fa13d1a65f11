"""Our copies of the official metrics give the official figures; ours agree wherever they are sound."""

import numpy as np
import pytest
from golden import Golden

from vidsift.evaluation import legacy_metrics as legacy
from vidsift.evaluation.metrics import ranks, retrieval_metrics

GOLDEN = Golden("metrics")
KEYS = GOLDEN.keys("out/")
SINGLE = ["small", "large", "ties", "constant", "zero_recall"]
MULTI = ["multi", "multities"]
NAMES = {"MR": "MedR", "MedianR": "MedR"}  # one figure under several names


def array(key: str) -> np.ndarray:
    return GOLDEN[key].numpy()


def assert_figures(found: dict[str, float], prefix: str) -> None:
    stored = {k.split("/")[1]: k for k in KEYS if k.startswith(f"{prefix}/") and not k.endswith("/cols")}
    assert stored, prefix
    for name, key in stored.items():
        # Some percentages are stored as float32.
        assert found[NAMES.get(name, name)] == pytest.approx(float(GOLDEN[f"out/{key}"]), rel=1e-6), key


def cases(function: str, names: list[str]) -> list[str]:
    return [f"{c}_{function}_{d}" for c in names for d in ("t2v", "v2t") if has(f"{c}_{function}_{d}")]


def has(prefix: str) -> bool:
    return any(k.startswith(f"{prefix}/") for k in KEYS)


def square(prefix: str) -> np.ndarray:
    """The scores of a single-caption case, in the direction that the name says."""
    name = next(c for c in SINGLE if prefix.startswith(c))
    scores = array(f"in/{name}_sim")
    return scores.T if prefix.endswith("v2t") else scores


@pytest.mark.parametrize("prefix", [*cases("clip4clip", SINGLE), *cases("ts2teachclip", SINGLE)])
def test_clip4clip_family(prefix: str) -> None:
    assert_figures(legacy.clip4clip_metrics(square(prefix)), prefix)
    assert np.array_equal(legacy.tied_positions(square(prefix)), array(f"out/{prefix}/cols"))


@pytest.mark.parametrize("prefix", [*cases("dsl", SINGLE), *cases("dslmain", SINGLE)])
def test_dual_softmax(prefix: str) -> None:
    if "dslmain" in prefix and prefix.endswith("v2t"):
        scores = legacy.dual_softmax(square(prefix).T).T
    else:
        scores = legacy.dual_softmax(square(prefix))
    assert_figures(legacy.clip4clip_metrics(scores), prefix)
    assert np.array_equal(legacy.tied_positions(scores), array(f"out/{prefix}/cols"))


@pytest.mark.parametrize("prefix", cases("tensor", SINGLE))
def test_tensor_metrics(prefix: str) -> None:
    assert_figures(legacy.tensor_metrics(square(prefix)[:, None]), prefix)


@pytest.mark.parametrize("prefix", cases("xpool", SINGLE))
def test_xpool(prefix: str) -> None:
    assert_figures(legacy.xpool_t2v(square(prefix)[:, None]), prefix)


@pytest.mark.parametrize("prefix", cases("ce", SINGLE))
def test_ce(prefix: str) -> None:
    scores = array(f"in/{next(c for c in SINGLE if prefix.startswith(c))}_sim")
    assert_figures((legacy.ce_v2t if prefix.endswith("v2t") else legacy.ce_t2v)(scores), prefix)


@pytest.mark.parametrize("case", MULTI)
def test_several_captions(case: str) -> None:
    counts = array(f"in/{case}_caption_counts").tolist()
    grouped = legacy.by_video(array(f"in/{case}_sim"), counts)
    assert np.array_equal(np.isneginf(grouped), array(f"out/{case}_reshaped_is_padding"))
    best = legacy.best_caption(grouped)
    for family in ("clip4clip", "ts2", "teachclip_eval"):
        assert_figures(legacy.tensor_metrics(grouped), f"{case}_{family}_t2v")
        assert_figures(legacy.clip4clip_metrics(best), f"{case}_{family}_v2t")
        assert np.array_equal(legacy.tied_positions(best), array(f"out/{case}_{family}_v2t/cols"))
    for family in ("clip4clip", "ts2"):
        assert np.array_equal(best, array(f"out/{case}_{family}_v2t_sim"))
    assert_figures(legacy.xpool_t2v(grouped), f"{case}_xpool_t2v")
    assert_figures(legacy.xpool_v2t(grouped), f"{case}_xpool_v2t")
    scores, present = array(f"in/{case}_ce_sim"), array(f"in/{case}_ce_query_masks")
    assert_figures(legacy.ce_t2v(scores, present), f"{case}_ce_t2v")
    assert_figures(legacy.ce_v2t(scores, present), f"{case}_ce_v2t")
    if has(f"{case}_ce_unmasked_t2v"):
        assert_figures(legacy.ce_t2v(scores), f"{case}_ce_unmasked_t2v")
        assert_figures(legacy.ce_v2t(scores), f"{case}_ce_unmasked_v2t")


def test_several_right_labels() -> None:
    found = legacy.ce_classification(array("in/multilabel_sim"), array("in/multilabel_query_masks"))
    assert_figures(found, "multilabel_ce")


@pytest.mark.parametrize("case", ["small", "large", "zero_recall"])
def test_without_ties_ours_is_what_everybody_computes(case: str) -> None:
    scores = array(f"in/{case}_sim")
    ours = retrieval_metrics(ranks(scores, np.arange(len(scores))))
    for theirs in (
        legacy.clip4clip_metrics(scores),
        legacy.ce_t2v(scores),
        legacy.xpool_t2v(scores[:, None]),
    ):
        assert (ours.r1, ours.r5, ours.r10) == pytest.approx([theirs[k] for k in ("R1", "R5", "R10")])
        assert (ours.mdr, ours.mnr) == pytest.approx([theirs["MedR"], theirs["MeanR"]])


def test_several_captions_without_ties_are_single_queries_in_ours() -> None:
    owner = array("in/multi_caption_owner")
    ours = retrieval_metrics(ranks(array("in/multi_sim"), owner))
    theirs = legacy.xpool_t2v(legacy.by_video(array("in/multi_sim"), np.bincount(owner).tolist()))
    assert (ours.r1, ours.r5, ours.mdr, ours.mnr) == pytest.approx(
        [theirs[k] for k in ("R1", "R5", "MedR", "MeanR")]
    )
