"""Dual softmax gives the official numbers, and is right for the direction it is used in."""

import numpy as np
import pytest
from golden import Golden

from vidsift.evaluation.rescoring import dual_softmax

GOLDEN = Golden("rescoring")


def test_dual_softmax_and_the_short_list_over_it() -> None:
    """The official function rescores both matrices and lifts the second one's short list by 100."""
    main, rerank = (dual_softmax(GOLDEN[f"in/cal_new_{name}"].numpy()) for name in ("main", "rerank"))
    short = np.argsort(-main, axis=1)[:, : GOLDEN.meta["rerantopk"]]
    np.put_along_axis(main, short, np.take_along_axis(rerank, short, 1) + 100, 1)
    expected = GOLDEN["out/cal_new"].numpy()
    assert np.abs(main - expected).max() <= 1e-6 * np.abs(expected).max()


def test_it_takes_from_a_clip_that_every_text_likes() -> None:
    scores = np.array([[2.0, 1.9], [2.1, 0.1]])
    assert scores.argmax(1).tolist() == [0, 0]
    assert dual_softmax(scores).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_large_scores_stay_finite(shift: float) -> None:
    assert np.isfinite(dual_softmax(np.eye(3) * 100 + shift)).all()
