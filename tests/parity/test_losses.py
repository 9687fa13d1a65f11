"""Our losses give the numbers and gradients of TeachCLIP's, CE's and TeachText's training code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.ranking import max_margin
from vidsift.losses.similarity import similarity_matching
from vidsift.losses.teaching import coarse_teaching, fine_teaching

with np.load(Path(__file__).parent / "golden" / "losses.npz") as _file:
    GOLDEN = {key: torch.from_numpy(_file[key]) for key in _file if _file[key].dtype.kind == "f"}
    CE = json.loads(str(_file["ce/meta/json"]))

TEACHERS = ("xclip", "ts2net", "xpool")
KINDS = {"pear": "pearson", "ce": "cross_entropy", "l1": "smooth_l1"}
VARIANTS = ["pear_ce_1t", "pear_ce_2t", "pear_ce_3t", "ce_ce_2t", "l1_ce_2t", "pear_pear_2t", "pear_l1_2t"]


def assert_golden(value: torch.Tensor, key: str, relative: float = 1e-5) -> None:
    stored = GOLDEN[key]
    assert value.shape == stored.shape
    assert (value - stored).abs().max() <= 1e-7 + relative * stored.abs().max(), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_teachclip_losses_and_their_official_sum(variant: str) -> None:
    coarse, fine, count = variant.split("_")
    teachers = TEACHERS[: int(count[0])]
    scores, weights = GOLDEN["teachclip/out/train_sim"], GOLDEN["teachclip/out/train_frame_weights"]
    sims = [GOLDEN[f"teachclip/out/teacher_{t}_sim"] for t in teachers]
    relevance = [GOLDEN[f"teachclip/out/teacher_{t}_relevance"] for t in teachers]
    truth = symmetric_info_nce(scores)
    distill = torch.stack([coarse_teaching(scores, z, KINDS[coarse]) for z in sims]).mean()
    frames = torch.stack([fine_teaching(weights, y, kind=KINDS[fine]) for y in relevance]).mean()
    shares = (1.0, 10.0, 1.0) if coarse == "ce" else (0.2, 1.0, 2.0)
    name = f"teachclip/out/loss_{variant}"
    assert_golden(truth, f"{name}_gt")
    assert_golden(distill, f"{name}_distill")
    assert_golden(frames, f"{name}_fine")
    assert_golden(shares[0] * truth + shares[1] * distill + shares[2] * frames, f"{name}_total")


@pytest.mark.parametrize("fix_norm", [True, False])
def test_max_margin_and_its_gradient(fix_norm: bool) -> None:
    scores = GOLDEN["ce/in/ranking_sim"].clone().requires_grad_()
    loss = max_margin(scores, CE["margin"], with_diagonal=not fix_norm)
    loss.backward()
    assert_golden(loss.detach(), f"ce/out/ranking_loss_fixnorm_{fix_norm}")
    assert_golden(scores.grad, f"ce/grad/ranking_sim_fixnorm_{fix_norm}")


def test_teachtext_objective_and_its_gradient() -> None:
    scores = GOLDEN["ce/out/teachtext_student_sim"].clone().requires_grad_()
    teachers = torch.stack([GOLDEN[f"ce/out/teachtext_teacher{t}_sim"] for t in range(CE["n_teachers"])])
    ranking, distil = max_margin(scores, CE["margin"]), similarity_matching(scores, teachers)
    total = ranking + distil
    total.backward()
    assert_golden(ranking.detach(), "ce/out/teachtext_loss_ranking")
    assert_golden(distil.detach(), "ce/out/teachtext_loss_distil")
    assert_golden(total.detach(), "ce/out/teachtext_loss_total")
    assert_golden(scores.grad, "ce/grad/teachtext_sim")
