"""What a figure was measured on and with: everything that must be the same before two may be compared."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import vidsift
from vidsift.datasets.pairs import PairSet
from vidsift.models import RetrievalModel


@dataclass(frozen=True)
class Protocol:
    """data: digest of captions and videos.  skipped: what was left out of the split, by reason.

    gallery: clips that every caption chooses from.  words: tokens after which texts are cut.
    commit: of the checkout that vidsift ran from, with "+" where it had been changed; None when installed.
    """

    dataset: str
    split: str
    data: str
    captions: int
    gallery: int
    frames: int
    words: int
    model: str
    method: str
    fingerprint: str
    candidates: int
    version: str = vidsift.__version__
    commit: str | None = None
    paragraphs: bool = False
    skipped: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """The protocol in one line, to stand above figures."""
        left_out = "".join(f", {count} {what} left out" for what, count in self.skipped.items())
        texts = "paragraphs" if self.paragraphs else "captions"
        return (
            f"{self.dataset} {self.split} ({self.data}): {self.captions:,} {texts}, gallery {self.gallery:,}"
            f"{left_out}; {self.frames} frames, {self.words} words; {self.method} {self.model} "
            f"({self.fingerprint}), {self.candidates} candidates; vidsift {self.version}"
            f"{f' at {self.commit}' if self.commit else ''}"
        )


def describe_protocol(
    model: RetrievalModel, pairs: PairSet, dataset: str, split: str, paragraphs: bool = False
) -> Protocol:
    """The protocol of evaluating a model on a set."""
    return Protocol(
        dataset=dataset,
        split=split,
        data=pairs.identity(),
        captions=len(pairs.captions),
        gallery=len(pairs.clips),
        frames=model.frames_per_clip,
        words=model.max_words,
        model=model.name,
        method=model.method,
        fingerprint=model.fingerprint(),
        candidates=model.search.candidates,
        commit=checkout_commit(),
        paragraphs=paragraphs,
        skipped=dict(pairs.skipped),
    )


def checkout_commit() -> str | None:
    """The commit of the checkout that this package lies in, or None."""
    folder = Path(vidsift.__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):  # no git, or a disk that does not answer
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed into somebody else's checkout
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
    return None if commit is None else commit + ("+" if changed else "")
