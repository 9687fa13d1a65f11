"""Static word vectors: read from a word2vec or GloVe text file, or made of the corpus itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidsift.errors import ModelFormatError
from vidsift.models.text import TextTokenizer
from vidsift.models.text_encoders.base import TextConfig, TextModel
from vidsift.models.tokenizer import PAD_ID, UNK_ID, build_word_tokenizer

MODEL_TYPE = "words"
Vectors = NDArray[np.float32]


class WordsConfig(TextConfig):
    """vocabulary: number of ids, special ones included."""

    model_type = MODEL_TYPE

    def __init__(self, width: int, vocabulary: int, pad_id: int = PAD_ID) -> None:
        super().__init__(width, pad_id)
        self.vocabulary = vocabulary

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "vocabulary": self.vocabulary}


class WordsModel(TextModel):
    """A bag of words: every word has one vector, whatever stands around it."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__(config)
        self.text_words = nn.Embedding(config.vocabulary, config.width)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.text_words(ids)
        return found


def make(words: dict[str, Vectors], max_words: int) -> tuple[WordsModel, TextTokenizer]:
    """A model and its tokenizer of words with their vectors; unknown words, and the ends, are zero."""
    tokenizer = build_word_tokenizer(words, max_length=max_words)
    vocabulary = tokenizer.get_vocab()
    width = len(next(iter(words.values())))
    model = WordsModel(WordsConfig(width, len(tokenizer)))
    with torch.no_grad():
        model.text_words.weight.zero_()
        for word, vector in words.items():
            number = vocabulary.get(word, UNK_ID)
            # Entries that the tokenizer splits ("don't") have no id of their own.
            if number != UNK_ID:
                model.text_words.weight[number] = torch.from_numpy(np.array(vector, np.float32))
    return model, TextTokenizer.from_transformers(tokenizer, max_length=max_words)


def split(text: str) -> list[str]:
    """A text's words as the tokenizer of static vectors sees them."""
    kept = "".join(c if c.isalnum() or c.isspace() else " " for c in text.lower())
    return kept.split()


def read_vectors(path: Path, wanted: Iterable[str], first: int = 20_000) -> dict[str, Vectors]:
    """Vectors of a text file with a word and its numbers on each line, word2vec's header line or none.

    wanted: words to look for; the file's `first` words, which are its most frequent, are kept as well.
    Raises ModelFormatError naming the file and line.
    """
    asked, width = set(wanted), 0
    found: dict[str, Vectors] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, 1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2:
                    continue
                if len(found) >= first and parts[0].lower() not in asked:
                    continue
                vector = _numbers(path, number, parts[1:])
                if width and len(vector) != width:
                    raise ModelFormatError(f"{path}:{number}: {len(vector)} numbers, {width} in lines before")
                width = len(vector)
                found.setdefault(parts[0].lower(), vector)
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot read the word vectors: {error.strerror}") from error
    if not found:
        raise ModelFormatError(f"{path}: no word vectors: lines are a word and its numbers, parted by spaces")
    return found


def _numbers(path: Path, line: int, parts: Sequence[str]) -> Vectors:
    try:
        vector = np.array([float(part) for part in parts], np.float32)
    except ValueError as error:
        raise ModelFormatError(f"{path}:{line}: {error}") from error
    if not len(vector) or not np.isfinite(vector).all():
        raise ModelFormatError(f"{path}:{line}: a word without (finite) numbers")
    return vector


def train_vectors(
    texts: Iterable[str], width: int = 128, window: int = 4, most: int = 8_000, seed: int = 0
) -> dict[str, Vectors]:
    """Word vectors of a corpus: the SVD of positive pointwise mutual information, which word2vec factorises
    implicitly (Levy & Goldberg, NeurIPS 2014), with their symmetric U sqrt(S).

    window: words to each side that count as near.  most: the most frequent words that get a vector.
    Raises ModelFormatError for texts without words.
    """
    lines = [split(text) for text in texts]
    counts = Counter(word for line in lines for word in line)
    words = [word for word, _ in counts.most_common(most)]
    if not words:
        raise ModelFormatError("word vectors are made of captions, and these have no words")
    place = {word: number for number, word in enumerate(words)}
    near = np.zeros((len(words), len(words)), np.float32)
    for a, b in _neighbours(lines, place, window):
        near[a, b] += 1
        near[b, a] += 1
    total, seen = near.sum(), near.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Contexts are smoothed (to the power 3/4), or rare ones would get the greatest information.
        smooth = seen.T**0.75 / (seen**0.75).sum()
        information = np.log(near / total / (seen / total * smooth))
    information = np.nan_to_num(np.maximum(information, 0.0), nan=0.0, posinf=0.0)
    torch.manual_seed(seed)
    rank = min(width, len(words))
    u, s, _ = torch.svd_lowrank(torch.from_numpy(information), q=rank, niter=4)
    vectors = np.zeros((len(words), width), np.float32)
    vectors[:, :rank] = (u * s.sqrt()).numpy()
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1.0)
    return dict(zip(words, vectors, strict=True))


def _neighbours(
    lines: Iterable[Sequence[str]], place: dict[str, int], window: int
) -> Iterator[tuple[int, int]]:
    for line in lines:
        numbers = [place[word] for word in line if word in place]
        for i, a in enumerate(numbers):
            for b in numbers[i + 1 : i + 1 + window]:
                yield a, b
