"""`load_text_encoder`: from a name to a text encoder, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidsift.errors import ModelFormatError, ModelNotFoundError
from vidsift.models.backbone import FAMILIES, Backbone
from vidsift.models.loading import load_model, locate
from vidsift.models.storage import CONFIG, read_json
from vidsift.models.text import TextTokenizer
from vidsift.models.text_encoders import hub, static
from vidsift.models.text_encoders.base import TextBackbone

WORDS = "words"


def load_text_encoder(
    name: str, captions: Sequence[str] = (), max_words: int = 77
) -> tuple[Backbone, TextTokenizer]:
    """A text encoder in eval mode and its tokenizer; `encode_tokens` gives token vectors and their mean.

    name: `words`, vectors made of `captions`; `words:FILE`, a word2vec or GloVe text file, of which the
        words of `captions` and the most frequent are kept; else a dual encoder, whose own text tower it is,
        or a text model (BERT, GPT-2, T5, a sentence-embedding model), as a bundled name, folder, preset or
        hub id.
    max_words: longest text in tokens, where the encoder takes as many.
    Raises ModelNotFoundError or ModelFormatError, naming what cannot be had or used.
    """
    if name == WORDS or name.startswith(f"{WORDS}:"):
        if name == WORDS:
            if not captions:
                raise ModelNotFoundError("the text encoder 'words' is made of training captions: give some")
            vectors = static.train_vectors(captions)
        else:
            wanted = {word for text in captions for word in static.split(text)}
            vectors = static.read_vectors(Path(name.partition(":")[2]).expanduser(), wanted)
        model, tokenizer = static.make(vectors, max_words)
        return TextBackbone(model.eval(), pad_id=tokenizer.pad_id), tokenizer
    folder = locate(name)
    model_type = _model_type(folder)
    if model_type is None or model_type in FAMILIES:
        dual = load_model(name)
        return dual.backbone, dual.tokenizer
    encoder, tokenizer = hub.read(folder, model_type, max_words)
    return TextBackbone(encoder.eval(), pad_id=tokenizer.pad_id), tokenizer


def _model_type(folder: Path) -> str | None:
    """transformers' model_type, None for a model of ours."""
    path = folder / CONFIG
    values = read_json(path)
    if "vidsift" in values:
        return None
    if "model_type" not in values:
        raise ModelFormatError(f"{path}: neither a vidsift model nor a Hugging Face one")
    return str(values["model_type"])
