"""vidsift: find videos, and the moment inside a video, from a sentence."""

__version__ = "0.1.0"
