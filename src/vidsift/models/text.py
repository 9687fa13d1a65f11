"""Texts to padded id tensors, with the cleaning that a backbone was trained with."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vidsift.errors import ModelFormatError

Cleaning = Literal["none", "lower", "canonical"]
_OLD_FILES = ("vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextTokenizer:
    """A `tokenizers` pipeline with a length limit, a pad id and the cleaning done before it.

    max_length: ids per text at most, special tokens included; longer texts lose words, never the EOS.
    cleaning: `none`; `lower` (SigLIP 2 was trained on lower-cased text, but its tokenizer files do not say
    so); `canonical` (SigLIP: lower case, no punctuation, single spaces).
    backend: configured in place.  settings: the `tokenizer_config.json` that goes with the pipeline, kept so
    that saving gives a folder that `transformers.AutoTokenizer` loads too.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        pad_id: int,
        max_length: int,
        cleaning: Cleaning = "none",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.backend = backend
        self.backend.no_padding()
        self.backend.enable_truncation(max_length)
        self.pad_id = pad_id
        self.max_length = max_length
        self.cleaning: Cleaning = cleaning
        self.settings = settings or {}

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Encode texts, padded on the right to the longest of them.

        Returns ids [T, W] int64 and mask [T, W] bool, True on real tokens; W is 1 for an empty list.
        """
        rows = [e.ids for e in self.backend.encode_batch([self.clean(t) for t in texts])]
        width = max((len(r) for r in rows), default=1)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return ids, mask

    def clean(self, text: str) -> str:
        """The text as the tokenizer pipeline gets it."""
        if self.cleaning == "none":
            return text
        text = text.lower()
        return text if self.cleaning == "lower" else " ".join(text.translate(_NO_PUNCTUATION).split())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`."""
        self.backend.no_truncation()  # the limit is ours: whoever loads the files sets their own
        self.backend.save(str(folder / "tokenizer.json"))
        self.backend.enable_truncation(self.max_length)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_transformers(
        cls, tokenizer: Any, *, max_length: int, cleaning: Cleaning = "none"
    ) -> TextTokenizer:
        """Wrap a fast transformers tokenizer; the other arguments are as for the class."""
        settings = {
            "tokenizer_class": "TokenizersBackend",
            "backend": "tokenizers",
            "model_max_length": max_length,
            "padding_side": "right",
            "truncation_side": "right",
            **{k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        }
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy, ours to configure
        pad_id = int(tokenizer.pad_token_id)
        return cls(backend, pad_id=pad_id, max_length=max_length, cleaning=cleaning, settings=settings)

    @classmethod
    def from_folder(
        cls, folder: Path, *, max_length: int, cleaning: Cleaning = "none", default_pad_id: int = 0
    ) -> TextTokenizer:
        """Read a folder's `tokenizer.json`, or let transformers convert older tokenizer files.

        default_pad_id: used when no file names a pad token.
        Raises ModelFormatError when the folder has no tokenizer that can be read here.
        """
        path, settings_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        if not path.is_file():
            return cls.from_transformers(_convert_old_files(folder), max_length=max_length, cleaning=cleaning)
        try:
            settings = (
                json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
            )
        except ValueError as error:
            raise ModelFormatError(f"{settings_path}: {error}") from error
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ModelFormatError(f"{path}: {error}") from error
        pad_id = None
        if settings.get("pad_token"):
            pad_id = backend.token_to_id(_token_text(settings["pad_token"]))
        if pad_id is None:
            pad_id = (backend.padding or {}).get("pad_id", default_pad_id)
        return cls(backend, pad_id=int(pad_id), max_length=max_length, cleaning=cleaning, settings=settings)


def _token_text(token: Any) -> str:
    """A special token of `tokenizer_config.json`: plain text, or a dictionary that holds it."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _convert_old_files(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _OLD_FILES):
        raise ModelFormatError(
            f"{folder / 'tokenizer.json'}: missing, and no older tokenizer files beside it"
        )
    from transformers import AutoTokenizer  # seconds of import, for old folders only

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelFormatError(
            f"{folder}: no tokenizer.json, and the other tokenizer files fail: {error}"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelFormatError(f"{folder}: no tokenizer.json; save the tokenizer in that format first")
    return tokenizer
