"""Word-level tokenizers for small models trained here, and the loading of any tokenizer from a folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
# EOS must not be id 2: transformers' CLIP then falls back to "the largest id is EOS", a rule made for
# OpenAI's vocabulary that would pick an arbitrary word here.
PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


def build_word_tokenizer(words: Iterable[str], max_length: int = 77) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer over a closed vocabulary: lower case, split at spaces, no punctuation.

    words: the vocabulary; entries of several words or with punctuation are split like any text, repeats are
    ignored and the order of first appearance gives the ids, after pad 0, unk 1, bos 2, eos 3.
    max_length: number of ids, BOS and EOS included, that longer texts are cut to.

    A text becomes BOS words EOS; a word outside the vocabulary becomes unk. A CLIP text tower over it needs
    `clip_text_ids(tokenizer)` in its configuration, so that it finds the EOS position.
    """
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    vocabulary = {PAD: PAD_ID, UNK: UNK_ID, BOS: BOS_ID, EOS: EOS_ID}
    for entry in words:
        for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(entry)):
            vocabulary.setdefault(piece, len(vocabulary))
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
    )


def clip_text_ids(tokenizer: Any) -> dict[str, int]:
    """Return the `CLIPTextConfig` arguments that a tokenizer fixes: vocab_size and the three special ids."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": int(tokenizer.pad_token_id),
        "bos_token_id": int(tokenizer.bos_token_id),
        "eos_token_id": int(tokenizer.eos_token_id),
    }
