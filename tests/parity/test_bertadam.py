"""Our BertAdam moves weights as the official one does, step by step."""

import torch
from golden import Golden, assert_close

from vidsift.training.bertadam import BertAdam

GOLDEN = Golden("bertadam")
META = GOLDEN.meta


def test_every_step_of_every_group() -> None:
    count = len(META["group_lr"])
    params = [torch.nn.Parameter(GOLDEN[f"in/param{i}"]) for i in range(count)]
    groups = [
        {"params": [p], "lr": lr, "weight_decay": decay}
        for p, lr, decay in zip(params, META["group_lr"], META["group_weight_decay"], strict=True)
    ]
    optimizer = BertAdam(
        groups,
        META["lr"],
        META["t_total"],
        warmup=META["warmup"],
        betas=(META["b1"], META["b2"]),
        eps=META["e"],
        weight_decay=META["weight_decay"],
        max_grad_norm=META["max_grad_norm"],
    )
    first = min(int(key.split("_")[0][4:]) for key in GOLDEN.keys("out/") if key.startswith("step"))
    for step in range(first, first + META["steps"]):
        for i, p in enumerate(params):
            p.grad = GOLDEN[f"in/step{step}_grad{i}"]
        optimizer.step()
        for i, p in enumerate(params):
            assert_close(p, GOLDEN[f"out/step{step}_param{i}"], 1e-6, f"step {step}, group {i}")
        rates = torch.tensor(optimizer.current_lr(), dtype=torch.float64)
        assert_close(rates, GOLDEN[f"out/step{step}_lr_reported"], 1e-12, f"rate after step {step}")
