"""MSVD (Chen and Dolan, ACL 2011): 1,970 short YouTube clips with about 40 captions each."""

from __future__ import annotations

import pickle
from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, line_of, read_ids, read_json, read_pickle
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place
from vidsift.errors import DataError

_PICKLE, _JSON = "raw-captions.pkl", "captions_msvd.json"
_ROLES: tuple[Role, ...] = ("train", "val", "test")


def prepare(root: Path) -> Corpus:
    """Read the id lists, and the captions if their file is there."""
    files, built = VideoFiles(root), CorpusBuilder()
    path = find(root, _PICKLE, _JSON)
    said = {} if path is None else _captions(path)
    for role in _ROLES:
        listed = find(root, f"{role}_list.txt")
        if listed is None:
            continue
        videos = []
        for name in read_ids(listed):
            number = built.video(name, files.path(name))
            videos.append(number)
            for text in said.get(name, ()):
                assert path is not None
                line = line_of(path, name) if path.suffix == ".json" and not text.strip() else 1
                built.caption(number, text, path, line)
        built.split(role, role, videos, lacking=f"the captions are in {_PICKLE} or {_JSON}, which is missing")
    if not built.splits:
        raise DataError(f"{root}: holds none of MSVD's lists: train_list.txt, val_list.txt, test_list.txt")
    return built.build()


def _captions(path: Path) -> dict[str, list[str]]:
    """Captions by id, from token lists or sentences."""
    found = read_pickle(path) if path.suffix == ".pkl" else read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}:1: expected captions by video id")
    said: dict[str, list[str]] = {}
    for name, captions in found.items():
        if not isinstance(name, str) or not isinstance(captions, list | tuple):
            raise DataError(f"{path}: expected a list of captions for {name!r}")
        said[name] = [_sentence(path, name, caption) for caption in captions]
    return said


def _sentence(path: Path, name: str, caption: object) -> str:
    if isinstance(caption, str):
        return caption
    if isinstance(caption, list | tuple) and all(isinstance(token, str) for token in caption):
        return " ".join(caption)
    raise DataError(f"{path}: a caption of {name} is neither a sentence nor a list of words")


def write_example(root: Path, examples: Examples) -> None:
    """Lay out with captions as the pickle of token lists and videos as .avi named id_start_end."""
    said = {}
    for role, chosen in examples.items():
        names = [f"{role}Clip{k:02d}_0_{k + 5}" for k in range(len(chosen))]
        for name, example in zip(names, chosen, strict=True):
            place(example.file, root / "YouTubeClips" / f"{name}.avi")
            said[name] = [text.split() for text in example.captions]
        (root / f"{role}_list.txt").write_text("\n".join(names))
    (root / _PICKLE).write_bytes(pickle.dumps(said))


DATASET = Dataset(
    name="msvd",
    title="MSVD",
    splits={role: role for role in _ROLES},
    train="train",
    test="test",
    prepare=prepare,
    write_example=write_example,
    homepage="https://www.cs.utexas.edu/~ml/clamp/videoDescription/",
    licence="research use; the clips belong to their uploaders",
    files=f"train_list.txt, val_list.txt, test_list.txt; {_PICKLE} or {_JSON}",
    obtain="videos: YouTubeClips.tar from the homepage; the rest: the CLIP4Clip repository's release",
)
