"""The tokenizer that checkpoints need but do not hold: from a folder, OpenAI's merges file, or the cache."""

from __future__ import annotations

import gzip
from pathlib import Path

from vidsift.errors import ConversionError
from vidsift.models.text import TextTokenizer

# In the `modules` folder of every official repository, and in OpenAI's.
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
HUB_ID = "openai/clip-vit-base-patch32"
_FILES = ("tokenizer.json", "tokenizer_config.json")
# OpenAI reads so many of the file's merges: 49152 tokens less 256 bytes, twice, and the two special ones.
_MERGES = 49152 - 256 - 2
_CONTEXT = 77


def find_tokenizer(named: str | None, beside: Path) -> TextTokenizer:
    """The tokenizer for a checkpoint of OpenAI's vocabulary.

    named: a folder with tokenizer files, a merges file, or a hub id in the local cache. None looks beside the
    checkpoint (`beside` is its folder), then in the local cache; nothing is downloaded.
    Raises ConversionError, with the ways to get one, when there is none.
    """
    if named is not None:
        path = Path(named).expanduser()
        if path.is_file():
            return read_merges(path)
        if path.is_dir():
            return TextTokenizer.from_folder(path, max_length=_CONTEXT)
        cached = _cached(named)
        if cached is None:
            raise ConversionError(f"{named}: neither a folder, nor a file, nor a hub id in the local cache")
        return TextTokenizer.from_folder(cached, max_length=_CONTEXT)
    if (beside / "tokenizer.json").is_file():
        return TextTokenizer.from_folder(beside, max_length=_CONTEXT)
    if (beside / MERGES_FILE).is_file():
        return read_merges(beside / MERGES_FILE)
    cached = _cached(HUB_ID)
    if cached is not None:
        return TextTokenizer.from_folder(cached, max_length=_CONTEXT)
    raise ConversionError(
        "a checkpoint has no vocabulary in it, and there is none beside it or in the local cache. Name it: "
        f"--tokenizer PATH/{MERGES_FILE}, which is in the modules folder of the official repository, or "
        "--tokenizer FOLDER with a tokenizer.json. Where there is a network this fetches it: "
        f"hf download {HUB_ID} {' '.join(_FILES)}"
    )


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(_FILES), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / "tokenizer.json").is_file() else None


def read_merges(path: Path) -> TextTokenizer:
    """Build CLIP's tokenizer from OpenAI's merges file (one pair a line after a header; gzip or plain text).

    Ids are OpenAI's: the bytes, the bytes that end a word, the merges in order, start, end. Texts are NFC
    normalised, lower-cased and split as OpenAI does; mojibake and HTML entities are left as they are.
    Raises ConversionError naming the file when it is no such list.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ConversionError(f"{path}: {error}") from error
    merges = [tuple(line.split()) for line in text.rstrip("\n").split("\n")[1 : _MERGES + 1]]
    wrong = next((i for i, pair in enumerate(merges) if len(pair) != 2), None)
    if not merges or wrong is not None:
        line = "no merges" if wrong is None else f"line {wrong + 2} is not a pair of tokens"
        raise ConversionError(f"{path}: {line}; expected OpenAI's {MERGES_FILE}")
    letters = _byte_letters()
    assert set(letters) == set(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary: dict[str, int] = {}
    for word in words:
        if word in vocabulary:
            raise ConversionError(f"{path}: {word!r} is made twice; expected OpenAI's {MERGES_FILE}")
        vocabulary[word] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    return TextTokenizer.from_transformers(tokenizer, max_length=_CONTEXT)


def _byte_letters() -> list[str]:
    """The printable stand-ins of the 256 bytes in the order of their ids: printable bytes first."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = 256 - len(printable)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(rest)]
