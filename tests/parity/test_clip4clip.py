"""Our CLIP4Clip heads give the official scores, losses and gradients, from the official tensors' names."""

import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.clip4clip import FAMILY, describe
from vidsift.convert.core import OURS, head_from_official
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.base import RetrievalModel
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

GOLDEN = Golden("clip4clip")
HEADS = {"meanP": "meanp", "seqLSTM": "seqlstm", "seqTransf": "seqtransf", "tightTransf": "tighttransf"}


# Both modes: without an empty clip, the official treatment of padding changes nothing in this family.
CASES = [("meanP", None), *((head, legacy) for head in [*HEADS][1:] for legacy in (False, True))]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[str, RetrievalModel]:
    head, legacy = request.param
    weights = GOLDEN.weights(f"w_{head}/")
    found = describe(weights)
    assert found.method == HEADS[head]
    settings = dict(found.settings) | ({} if legacy is None else {"legacy": legacy})
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN.meta["D"], max_words=8)
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    model = new_clip_model(tokenizer, shape, method=found.method, **settings).eval()
    head_from_official(model, weights, FAMILY)
    return head, model


def features(
    model: RetrievalModel, sequence: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor
) -> tuple[TextFeatures, ClipFeatures]:
    sentence = sequence.squeeze(1)
    words = torch.zeros(len(sentence), 1, sentence.shape[1])
    return model.text_features(sentence, words, words[..., 0] == 0), model.clip_features(frames, mask)


def test_similarity_and_embeddings(case: tuple[str, RetrievalModel]) -> None:
    head, model = case
    inputs = GOLDEN["in/sequence"], GOLDEN["in/frames"], GOLDEN.mask("in/video_mask")
    text, clips = features(model, *inputs)
    assert_close(model.similarity(text, clips), GOLDEN[f"out/{head}_sim"], name="similarity")
    if head == "tightTransf":
        pooled = model.cross.pooled(inputs[0].squeeze(1), *inputs[1:])
        assert_close(pooled, GOLDEN["out/tightTransf_pooled"], name="pooled")
    else:
        assert_close(text.sentence, GOLDEN[f"out/{head}_text_embed"], name="text")
        assert_close(clips.coarse, GOLDEN[f"out/{head}_video_embed"], name="video")


def test_loss_and_gradients(case: tuple[str, RetrievalModel]) -> None:
    head, model = case
    n = GOLDEN.meta["n_loss"]
    sequence = GOLDEN["in/sequence"][:n].requires_grad_()
    frames = GOLDEN["in/frames"][:n].requires_grad_()
    text, clips = features(model, sequence, frames, GOLDEN.mask("in/video_mask")[:n])
    loss = symmetric_info_nce(model.similarity(text, clips))
    loss.backward()
    assert_close(loss, GOLDEN[f"out/{head}_loss"], name="loss")
    assert_gradient(sequence.grad, GOLDEN[f"grad/{head}_sequence"], name="sequence")
    assert_gradient(frames.grad, GOLDEN[f"grad/{head}_frames"], name="frames")
    checked = 0
    for key, parameter in model.named_parameters():
        if key.startswith(OURS) and key != f"{OURS}logit_scale":
            continue
        name = "clip.logit_scale" if key.startswith(OURS) else FAMILY.rename(key)
        stored = f"gradstat_{head}/{name}"
        if stored in GOLDEN:
            zero = name == "similarity_dense.bias"
            assert_gradient_stats(parameter.grad, GOLDEN[stored], name, zero)
            checked += 1
    assert checked == len(GOLDEN.keys(f"gradstat_{head}/"))
