"""Any transformers text model as a text encoder: BERT, GPT-2, T5's encoder, sentence-embedding models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidsift.errors import ModelFormatError
from vidsift.models.text import TextTokenizer
from vidsift.models.text_encoders.base import TextConfig, TextModel

MODEL_TYPE = "text-encoder"
# Encoder-decoders of which only the encoder is wanted: transformers' model_type -> class.
_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


class HubTextConfig(TextConfig):
    """encoder: the configuration of the transformers model."""

    model_type = MODEL_TYPE

    def __init__(self, width: int, encoder: dict[str, Any], pad_id: int = 0) -> None:
        super().__init__(width, pad_id)
        self.encoder = encoder

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "encoder": self.encoder}


class HubTextModel(TextModel):
    """The last hidden states of a transformers text model."""

    def __init__(self, config: HubTextConfig, encoder: Any = None) -> None:
        super().__init__(config)
        self.text_encoder = encoder if encoder is not None else _empty(config.encoder)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return found


def _empty(values: dict[str, Any]) -> Any:
    import transformers

    kind = str(values["model_type"])
    config = transformers.AutoConfig.for_model(**values)
    if kind in _ENCODERS:
        return getattr(transformers, _ENCODERS[kind])(config)
    return transformers.AutoModel.from_config(config)


def read(folder: Path, model_type: str, max_words: int) -> tuple[HubTextModel, TextTokenizer]:
    """A text model's folder.  Raises ModelFormatError for one that cannot be used, naming it."""
    import transformers

    loader = getattr(transformers, _ENCODERS.get(model_type, "AutoModel"))
    safe = any(folder.glob("*.safetensors"))
    try:
        encoder = loader.from_pretrained(
            folder, local_files_only=True, use_safetensors=safe, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFormatError(f"{folder}: {error}") from error
    config = encoder.config
    width = int(getattr(config, "hidden_size", None) or config.d_model)
    limit = int(getattr(config, "max_position_embeddings", None) or max_words)
    # RoBERTa and its kin count positions from behind the padding's.
    offset = int(config.pad_token_id or 0) + 1 if model_type in ("roberta", "xlm-roberta", "mpnet") else 0
    tokenizer = TextTokenizer.from_folder(
        folder, max_length=min(max_words, limit - offset), default_pad_id=int(config.pad_token_id or 0)
    )
    values = {**config.to_dict(), "model_type": model_type}
    return HubTextModel(HubTextConfig(width, values, tokenizer.pad_id), encoder), tokenizer
