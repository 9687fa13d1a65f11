"""From a checkpoint file to a model folder: the whole of `vidsift convert`."""

from __future__ import annotations

from pathlib import Path

from vidsift.convert.core import Report, find_family, from_official
from vidsift.convert.loading import read_state
from vidsift.convert.vocabulary import find_tokenizer
from vidsift.errors import ConversionError
from vidsift.models.text import TextTokenizer
from vidsift.models.tokenizer import build_word_tokenizer

_WORDS = 77


def convert_file(
    checkpoint: Path,
    family: str,
    to: Path,
    *,
    tokenizer: str | None = None,
    frames: int | None = None,
    legacy: bool = False,
) -> Report:
    """Convert a checkpoint of a family (as after `--from`) into a new model folder.

    tokenizer: see `find_tokenizer`.  frames, legacy: see `from_official`.
    Raises ConversionError when the folder has files already, or the checkpoint does not convert strictly;
    nothing is written then.
    """
    known = find_family(family)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConversionError(f"{to}: exists already; name a new folder")
    state = read_state(checkpoint, known.ignore)
    if known.towers is None and tokenizer is None:
        # Such a model takes token embeddings, but every model folder has a tokenizer.
        words = TextTokenizer.from_transformers(build_word_tokenizer([]), max_length=_WORDS)
    else:
        words = find_tokenizer(tokenizer, checkpoint.resolve().parent)
    try:
        model, report = from_official(state, known, words, frames=frames, legacy=legacy)
    except ConversionError as error:
        raise ConversionError(f"{checkpoint}: {error}") from error
    model.save_pretrained(to)
    return report
