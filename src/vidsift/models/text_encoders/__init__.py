"""Text encoders: backbones that read texts only, and the loading of any encoder by its name."""

from vidsift.models.text_encoders.opening import load_text_encoder

__all__ = ["load_text_encoder"]
