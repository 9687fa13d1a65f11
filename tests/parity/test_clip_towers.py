"""OpenAI-named towers give the official numbers as a transformers CLIP, and come back bit for bit."""

import pytest
import torch
from golden import Golden, assert_close
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from vidsift.convert.clip4clip import FAMILY as CLIP4CLIP
from vidsift.convert.core import from_official, to_official
from vidsift.convert.openai_clip import FAMILY as OPENAI
from vidsift.models.base import RetrievalModel
from vidsift.models.text import TextTokenizer

GOLDEN = Golden("clip_towers")
META = GOLDEN.meta


def tokenizer() -> TextTokenizer:
    start, end = META["sot"], META["eot"]
    backend = Tokenizer(WordLevel({f"<{i}>": i for i in range(META["vocab"])}, unk_token="<1>"))
    backend.post_processor = TemplateProcessing(
        single=f"<{start}> $A <{end}>", special_tokens=[(f"<{start}>", start), (f"<{end}>", end)]
    )
    return TextTokenizer(backend, pad_id=0, max_length=META["ctx"])


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    return from_official(GOLDEN.weights("w/"), OPENAI, tokenizer())[0]


@pytest.fixture(scope="module")
def frames(model: RetrievalModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and patch vectors; the golden pictures are normalised already."""
    video = GOLDEN["in/video"]
    with torch.no_grad():
        out = model.backbone._encode_pixels(video.flatten(0, 1), patches=True)
    return out.frames.view(*video.shape[:2], -1), out.patches.view(*video.shape[:2], *out.patches.shape[1:])


def test_frame_and_patch_vectors(frames: tuple[torch.Tensor, torch.Tensor]) -> None:
    classes, patches = frames
    for name in (
        "frame_embed",
        "xpool_frame_embed",
        *(f"e2e_{m}_visual" for m in ("clip4clip", "xclip", "eercf", "teachclip")),
    ):
        assert_close(classes, GOLDEN[f"out/{name}"], name=name)
    assert_close(patches, GOLDEN["out/e2e_eercf_patches"], name="patches")
    tokens = torch.cat([classes.unsqueeze(2), patches], 2)
    assert_close(tokens, GOLDEN["out/frame_tokens"], name="tokens")


@torch.no_grad()
def test_sentence_and_word_vectors(model: RetrievalModel) -> None:
    ids, mask = GOLDEN["in/text_ids"], GOLDEN.mask("in/text_mask")
    out = model.backbone.encode_tokens(ids, mask)
    assert_close(out.sentence, GOLDEN["out/text_embed"], name="sentence")
    for method in ("clip4clip", "xclip", "eercf", "teachclip"):
        assert_close(out.sentence.unsqueeze(1), GOLDEN[f"out/e2e_{method}_sequence"], name=method)
    assert_close(out.words, GOLDEN["out/text_tokens"], name="words, padding included")
    assert_close(out.words, GOLDEN["out/e2e_xclip_words"], name="words of X-CLIP")


@torch.no_grad()
def test_texts_padded_to_the_full_context(model: RetrievalModel) -> None:
    ids = GOLDEN["in/text_ids_ctx77"]
    mask = torch.nn.functional.pad(GOLDEN.mask("in/text_mask"), [0, ids.shape[1] - META["L"]])
    out = model.backbone.encode_tokens(ids, mask)
    assert_close(out.sentence, GOLDEN["out/xpool_text_embed_ctx77"], name="sentence")
    assert_close(out.words, GOLDEN["out/xpool_text_tokens_ctx77"], name="words")


@torch.no_grad()
def test_scores_from_pixels_and_ids(model: RetrievalModel, frames: tuple[torch.Tensor, torch.Tensor]) -> None:
    text = model.encode_text(GOLDEN["in/text_ids"], GOLDEN.mask("in/text_mask"))
    clips = model.clip_features(frames[0], GOLDEN.mask("in/video_mask"))
    assert_close(model.similarity(text, clips), GOLDEN["out/e2e_clip4clip_meanP_sim"], name="meanP")
    pictures = model.clip_features(frames[0].flatten(0, 1).unsqueeze(1), torch.ones(9, 1, dtype=torch.bool))
    assert_close(model.similarity(text, pictures), GOLDEN["out/logits_per_text"], name="texts by pictures")
    assert_close(model.similarity(text, pictures).T, GOLDEN["out/logits_per_image"], name="pictures by texts")


@pytest.mark.parametrize(("family", "prefix"), [(OPENAI, ""), (CLIP4CLIP, "clip.")])
def test_the_way_back_is_bit_exact(family: object, prefix: str) -> None:
    official = {prefix + key: value for key, value in GOLDEN.weights("w/").items()}
    model, report = from_official(official, family, tokenizer())
    back = to_official(model, family)
    assert back.keys() == official.keys()
    assert sorted(back) == report.mapped
    assert not report.skipped
    assert all(torch.equal(back[key], official[key]) for key in official)
