"""The word-level tokenizer and its agreement with transformers' CLIP text tower."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from vidsift.models.tokenizer import EOS_ID, build_word_tokenizer, clip_text_ids

WORDS = ["a", "red", "Star", "red", "up-side down"]


def test_case_and_punctuation_do_not_change_the_ids() -> None:
    tokenizer = build_word_tokenizer(WORDS)
    assert tokenizer("A RED, star.")["input_ids"] == tokenizer("a red star")["input_ids"]


def test_vocabulary_keeps_first_appearance_order_and_splits_compounds() -> None:
    vocab = build_word_tokenizer(WORDS).get_vocab()
    order = sorted(vocab, key=vocab.__getitem__)
    assert order == ["<pad>", "<unk>", "<bos>", "<eos>", "a", "red", "star", "up", "side", "down"]


def test_empty_text_is_bos_eos() -> None:
    assert build_word_tokenizer(WORDS)("")["input_ids"] == [2, 3]


def test_unknown_word_becomes_unk() -> None:
    assert build_word_tokenizer(WORDS)("a zebra")["input_ids"] == [2, 4, 1, 3]


def test_truncation_keeps_eos() -> None:
    ids = build_word_tokenizer(WORDS, max_length=6)("red " * 20, truncation=True)["input_ids"]
    assert len(ids) == 6
    assert ids[-1] == EOS_ID


def test_save_and_auto_tokenizer_round_trip(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(WORDS, max_length=9)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("A red zebra!")["input_ids"] == tokenizer("A red zebra!")["input_ids"]
    assert again.model_max_length == 9
    assert clip_text_ids(again) == clip_text_ids(tokenizer)


@pytest.mark.parametrize("text", ["", "a red star", "down side up a red star"])
def test_clip_text_tower_pools_at_eos(text: str) -> None:
    tokenizer = build_word_tokenizer(WORDS)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        **clip_text_ids(tokenizer),
    )
    tower = CLIPTextModel(config).eval()
    ids = tokenizer([text, "a red star up side down"], padding=True, return_tensors="pt")["input_ids"]
    out = tower(input_ids=ids)
    eos = ids[0].tolist().index(EOS_ID)
    assert torch.equal(out.pooler_output[0], out.last_hidden_state[0, eos])
