"""Text encoders of every kind give token vectors with masks, save, and come back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidsift.errors import ModelFormatError, ModelNotFoundError
from vidsift.models import create_model, load_model
from vidsift.models.experts import Expert
from vidsift.models.text_encoders import load_text_encoder
from vidsift.models.text_encoders.static import make, read_vectors, split, train_vectors
from vidsift.models.tokenizer import build_word_tokenizer

CAPTIONS = ("a red ball falls", "a blue ball rises", "the red car moves left", "Don't drop the blue car!")


def test_the_vectors_of_a_corpus_know_what_stands_beside_what() -> None:
    texts = ["cat eats fish", "dog eats meat", "cat likes fish", "dog likes meat"] * 20
    texts += ["sun shines bright", "moon shines pale"] * 20
    found = train_vectors(texts, width=8)
    cosine = lambda a, b: float(found[a] @ found[b])  # noqa: E731
    assert cosine("cat", "fish") > cosine("cat", "moon") + 0.3
    assert all(np.isclose(np.linalg.norm(v), 1, atol=1e-4) for v in found.values())
    again = train_vectors(texts, width=8)
    assert all(np.array_equal(found[word], again[word]) for word in found)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_vectors_is_read_with_and_without_its_header(tmp_path: Path) -> None:
    lines = "Red 1 0\nball 0 1\nrare 0.5 0.5\n"
    for text in (lines, "3 2\n" + lines):
        found = read_vectors(write(tmp_path / "v.txt", text), ["rare"], first=1)
        assert {word: v.tolist() for word, v in found.items()} == {"red": [1, 0], "rare": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red 1 0\nball 1\n", r"v\.txt:2: 1 numbers, 2 in lines before"),
        ("red 1 x\n", r"v\.txt:1: could not convert"),
        ("red 1 nan\n", r"v\.txt:1: a word without"),
        ("", r"v\.txt: no word vectors"),
    ],
)
def test_a_bad_file_of_vectors_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read_vectors(write(tmp_path / "v.txt", text), ["red"])


def test_a_bag_of_words_gives_each_word_its_vector(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "red 1 0\nball 0 1\n")
    backbone, tokenizer = load_text_encoder(f"words:{path}", CAPTIONS)
    ids, mask = tokenizer(["Red ball!", "ball unheard"])
    out = backbone.encode_tokens(ids, mask)
    assert out.words[0, 1:3].tolist() == [[1, 0], [0, 1]]
    assert not out.words[1, 2].any()  # an unknown word is nothing
    assert out.words.shape == (2, 4, 2)
    assert backbone.width == 2


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_can_be_encoded(texts: list[str]) -> None:
    model, tokenizer = make({"red": np.ones(3, np.float32), "ball": np.zeros(3, np.float32)}, 6)
    ids, mask = tokenizer([*texts])
    assert torch.isfinite(model.encode(ids, mask)).all()
    assert all(word in " ".join(texts).lower() for word in split(texts[0]) if word.isascii())


def hub_models(folder: Path) -> dict[str, Path]:
    """Tiny BERT, GPT-2 and T5 with a word tokenizer, as they lie on the hub."""
    import transformers as tf

    tokenizer = build_word_tokenizer(w for c in CAPTIONS for w in split(c))
    size = {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    models = {
        "bert": tf.BertModel(
            tf.BertConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **size
            )
        ),
        "gpt2": tf.GPT2Model(tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **size)),
        "t5": tf.T5EncoderModel(tf.T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2, **size)),
    }
    found = {}
    for name, model in models.items():
        found[name] = folder / name
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


def test_text_models_of_transformers_are_text_encoders(tmp_path: Path) -> None:
    for name, folder in hub_models(tmp_path).items():
        backbone, tokenizer = load_text_encoder(str(folder))
        ids, mask = tokenizer(["a red ball", "a blue car moves left"])
        with torch.inference_mode():
            out = backbone.encode_tokens(ids, mask)
            alone = backbone.encode_tokens(*tokenizer(["a red ball"]))
        assert out.words.shape == (2, ids.shape[1], 16), name
        # Padding is invisible.
        torch.testing.assert_close(out.sentence[0], alone.sentence[0], rtol=1e-4, atol=1e-5)
        assert not out.words[~mask].any()


def test_the_text_tower_of_a_dual_encoder_is_one() -> None:
    backbone, _ = load_text_encoder("clip-tiny")
    assert backbone.model_type == "clip"


@pytest.mark.parametrize("name", ["words", "bert", "gpt2", "t5"])
def test_a_model_over_a_text_encoder_is_saved_whole(name: str, tmp_path: Path) -> None:
    spec = name if name == "words" else str(hub_models(tmp_path)[name])
    backbone, tokenizer = load_text_encoder(spec, CAPTIONS)
    torch.manual_seed(0)
    experts = (Expert("audio", 8, 2, 6, "audio"), Expert("colour", 5, 0, 6, "colour"))
    model = create_model("moee", backbone, tokenizer, experts=experts, text_clusters=2).eval()
    model.save_pretrained(tmp_path / "model")
    again = load_model(str(tmp_path / "model"))
    assert again.fingerprint() == model.fingerprint()
    assert again.config.experts == experts
    with torch.inference_mode():
        ours, theirs = (m.encode_text(*m.tokenize(["a red ball", "car"])).sentence for m in (model, again))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ModelFormatError, match="reads texts only"):
        again.backbone.encode_frames(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(ModelNotFoundError, match="made of training captions"):
        load_text_encoder("words")
    with pytest.raises(ModelFormatError, match=r"nowhere\.txt: cannot read"):
        load_text_encoder("words:nowhere.txt")
    with pytest.raises(ModelNotFoundError, match="did you mean 'clip-tiny'"):
        load_text_encoder("clip-tinny")
