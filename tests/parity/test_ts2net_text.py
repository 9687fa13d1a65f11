"""TS2-Net's text selector: in its repository and its checkpoints, never called, so no model of ours has it.

Its numbers still show that our perturbed top-k is the official one with a single choice under a mask.
"""

import torch
from golden import Golden, assert_close
from torch.nn import functional as F

from vidsift.models.tokens import perturbed_top_tokens

GOLDEN = Golden("ts2net_text")


def test_the_word_that_the_unused_text_selector_chooses() -> None:
    weights = {key.removeprefix("score_predictor."): w for key, w in GOLDEN.weights("w_textselect/").items()}
    x, mask = GOLDEN["in/textselect_x"], GOLDEN["in/textselect_mask"]
    normed = F.layer_norm(x, x.shape[-1:], weights["in_conv.0.weight"], weights["in_conv.0.bias"])
    h = F.gelu(F.linear(normed, weights["in_conv.1.weight"], weights["in_conv.1.bias"]))
    rows, eot = torch.arange(len(x)), GOLDEN["in/textselect_ids"].argmax(-1)
    both = torch.cat([h, h[rows, eot].unsqueeze(1).expand_as(h)], -1)
    hidden = F.gelu(F.linear(both, weights["out_conv.0.weight"]))
    scores = F.linear(hidden, weights["out_conv.2.weight"]).squeeze(-1).sigmoid()
    inner = F.pad(mask[:, 1:], [0, 1])  # the mask moved left by one leaves EOT out
    chosen = perturbed_top_tokens(scores * inner, 1, noise=GOLDEN["in/textselect_noise"]) @ x
    assert_close(torch.cat([x[rows, eot].unsqueeze(1), chosen], 1), GOLDEN["out/textselect_y"])
