"""A small storyboard library laid out as any public data set, to try a pipeline before the download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from vidsift.datasets.catalogue import find_dataset
from vidsift.datasets.corpus import Role
from vidsift.datasets.dataset import Example
from vidsift.datasets.storyboard.library import write_video
from vidsift.datasets.storyboard.splits import StorySet, load_split
from vidsift.errors import DataError

_SPLITS: tuple[Role, ...] = ("train", "val", "test")
CAPTIONS_EACH = 5


def write_example(
    name: str, root: Path, sizes: tuple[int, int, int], progress: Callable[[int, int], None] | None = None
) -> None:
    """Render videos and lay them out with their captions in a data set's own files and formats.

    sizes: videos for training, validation and test, at least two each.
    Raises DataError for an unknown data set and for a folder that is not empty.
    """
    dataset = find_dataset(name)
    if min(sizes) < 2:
        raise DataError(f"an example needs at least two videos in each split, got {sizes}")
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: is not empty; choose a new folder for the example")
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix="rendering-") as folder:
        dataset.write_example(root, render_examples(Path(folder), sizes, progress))


def render_examples(
    folder: Path, sizes: tuple[int, int, int], progress: Callable[[int, int], None] | None = None
) -> dict[Role, list[Example]]:
    """Storyboard videos as files, with five captions each and when they are true, by split."""
    found: dict[Role, list[Example]] = {}
    done = 0
    for role, size in zip(_SPLITS, sizes, strict=True):
        story = load_split(role, size)
        found[role] = []
        for number, video in enumerate(story.videos):
            path = folder / f"{role}-{number}.mp4"
            write_video(video, path)
            found[role].append(_example(story, number, path))
            done += 1
            if progress is not None:
                progress(done, sum(sizes))
    return found


def _example(story: StorySet, number: int, path: Path) -> Example:
    said = [c for owner, c in zip(story.video_of, story.captions, strict=True) if owner == number]
    captions = said[:CAPTIONS_EACH]
    video = story.videos[number]
    return Example(path, [c.text for c in captions], [c.span(video) for c in captions])
