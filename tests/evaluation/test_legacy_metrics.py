"""Where the official metrics are unsound, and that ours are not: one test per deliberate difference."""

import numpy as np
import pytest

from vidsift.evaluation import legacy_metrics as legacy
from vidsift.evaluation.metrics import ranks, retrieval_metrics

SQUARE = np.arange(4)


def ours(scores: np.ndarray) -> float:
    return retrieval_metrics(ranks(scores, SQUARE[: len(scores)])).r1


def test_a_tie_is_several_queries_in_clip4clip_and_one_in_ours() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert len(legacy.tied_positions(scores)) == 4
    assert legacy.clip4clip_metrics(scores)["R1"] == 75.0
    assert len(ranks(scores, [0, 1, 2])) == 3
    assert ours(scores) == pytest.approx(200 / 3)


def test_knowing_nothing_is_worth_one_in_n_in_clip4clip_and_no_first_place_in_ours() -> None:
    assert legacy.clip4clip_metrics(np.zeros((4, 4)))["R1"] == 25.0
    assert ours(np.zeros((4, 4))) == 0.0


def test_a_nan_query_disappears_in_clip4clip_and_ranks_last_in_ours() -> None:
    scores = np.eye(3)
    scores[0] = np.nan
    assert legacy.clip4clip_metrics(scores)["R1"] == 100.0
    assert ours(scores) == pytest.approx(200 / 3)


def test_the_order_of_clips_decides_ties_in_xpool_and_never_in_ours() -> None:
    scores = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert legacy.ordered_ranks(scores[:, None]).tolist() == [0, 1]
    assert ranks(scores, [0, 1]).tolist() == [1.5, 1.5]


def test_the_median_of_an_even_number_is_the_lower_middle_in_clip4clip_only() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])
    assert legacy.tensor_metrics(scores[:, None])["MedR"] == 1.0
    assert retrieval_metrics(ranks(scores, [0, 1])).mdr == 1.5


def test_half_a_rank_beyond_five_counts_within_five_in_ce_only() -> None:
    scores = np.zeros((7, 7))
    scores[:, :4] = 2.0  # four better, then a tie of two: rank 5.5
    scores[:, 4:6] = 1.0
    assert legacy.ce_t2v(scores)["R5"] == pytest.approx(600 / 7)
    assert retrieval_metrics(ranks(scores, np.arange(7))).r5 == pytest.approx(400 / 7)


def test_ranking_caption_groups_is_easier_than_ranking_captions() -> None:
    grouped = np.random.default_rng(0).normal(size=(6, 3, 6))
    groups = legacy.xpool_v2t(grouped)["MeanR"]
    assert groups < legacy.ce_v2t(grouped.reshape(18, 6))["MeanR"]


def test_captions_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="3 captions"):
        legacy.by_video(np.zeros((4, 2)), [1, 2])
