"""Audio: statistics of the log-mel spectrum over time, or an audio model of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vidsift.datasets.pairs import Clips
from vidsift.errors import ModelFormatError
from vidsift.experts.base import Findings, load_transformer, spread, weights_digest
from vidsift.video.sound import RATE, Waveform

MELS, WINDOW, HOP, SECONDS, TOKENS = 64, 400, 160, 0.5, 32
# Log-mel values of ordinary sound, power in dB: kept near zero and one.
_CENTRE, _SCALE = -40.0, 20.0


class Audio:
    """Mean and spread of 64 log-mel bands in each half second, up to 32 evenly over the clip."""

    dim, tokens = 2 * MELS, TOKENS

    def __init__(self, name: str = "audio") -> None:
        from transformers.audio_utils import mel_filter_bank, window_function

        self.name = name
        self.window = window_function(WINDOW, "hann")
        self.filters = mel_filter_bank(
            num_frequency_bins=WINDOW // 2 + 1,
            num_mel_filters=MELS,
            min_frequency=20.0,
            max_frequency=RATE / 2,
            sampling_rate=RATE,
            norm="slaney",
            mel_scale="slaney",
        )

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"audio": 1, "mels": MELS, "window": WINDOW, "hop": HOP, "seconds": SECONDS}

    def extract(self, clips: Clips, number: int) -> Findings | None:
        sound = clips.sound(number)
        return None if sound is None or len(sound) < WINDOW else self.describe(sound)

    def describe(self, sound: Waveform) -> Findings:
        """[n, dim] of a waveform at RATE."""
        from transformers.audio_utils import spectrogram

        bands = spectrogram(
            sound,
            self.window,
            frame_length=WINDOW,
            hop_length=HOP,
            power=2.0,
            mel_filters=self.filters,
            mel_floor=1e-10,
            log_mel="dB",
        ).T
        bands = (np.asarray(bands, np.float32) - _CENTRE) / _SCALE
        each = round(SECONDS * RATE / HOP)
        starts = range(0, max(1, len(bands) - each // 2), each)
        parts = [bands[start : start + each] for start in starts]
        rows = np.stack([np.concatenate([part.mean(0), part.std(0)]) for part in parts])
        return spread(rows, TOKENS)


class AudioModel:
    """The hidden states of a transformers audio model (wav2vec 2.0, HuBERT, AST, ...), up to 32 evenly over
    the clip.  Raises ModelFormatError, naming the folder, for a model that cannot be used."""

    tokens = TOKENS

    def __init__(self, name: str, model: str, device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor

        folder, self.model = load_transformer(model, device)
        try:
            self.features = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelFormatError(f"{folder}: {error}") from error
        if getattr(self.features, "sampling_rate", None) != RATE:
            raise ModelFormatError(f"{folder}: not an audio model at {RATE} samples a second")
        self.name, self.device, self.dim = name, device, int(self.model.config.hidden_size)
        self.digest = weights_digest(self.model)

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"audio model": self.model.config.model_type, "weights": self.digest}

    @torch.inference_mode()
    def extract(self, clips: Clips, number: int) -> Findings | None:
        sound = clips.sound(number)
        if sound is None or len(sound) < WINDOW:
            return None
        inputs = self.features(sound, sampling_rate=RATE, return_tensors="pt")
        name = self.features.model_input_names[0]
        states = self.model(inputs[name].to(self.device)).last_hidden_state[0]
        return spread(states.float().cpu().numpy(), TOKENS)
