"""Condensed Movies (Bain et al., ACCV 2020): two-minute scenes of 3,600 films with a description each."""

from __future__ import annotations

from pathlib import Path

from vidsift.datasets.annotations import VideoFiles, find, read_rows
from vidsift.datasets.corpus import Corpus, CorpusBuilder, Role
from vidsift.datasets.dataset import Dataset, Examples
from vidsift.datasets.writing import place, write_csv
from vidsift.errors import DataError

_CLIPS, _TEXTS, _SPLIT = "clips.csv", "descriptions.csv", "split.csv"
_ROLES: tuple[Role, ...] = ("train", "val", "test")


def prepare(root: Path) -> Corpus:
    """Read clips, descriptions and the split by film.

    As the official loader does, every description that stands more than once is dropped with all its clips:
    it says nothing of any one of them; and so are clips without one.
    """
    files, built = VideoFiles(root), CorpusBuilder()
    paths = {name: find(root, name) for name in (_CLIPS, _TEXTS, _SPLIT)}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise DataError(
            f"{root}: Condensed Movies needs {_CLIPS}, {_TEXTS} and {_SPLIT}; {absent[0]} is missing"
        )
    clips, texts, split = (path for path in paths.values() if path is not None)
    role_of = _films(split)
    said = _descriptions(texts)
    videos: dict[str, list[int]] = {role: [] for role in _ROLES}
    seen: dict[str, int] = {}
    for line, row in read_rows(clips, ["videoid", "imdbid"]):
        name, film = row["videoid"].strip(), row["imdbid"].strip()
        if name in seen:
            raise DataError(f"{clips}:{line}: {name} stands on line {seen[name]} already")
        seen[name] = line
        if film in role_of and name in said:
            number = built.video(name, files.path(name))
            text, at = said[name]
            built.caption(number, text, texts, at)
            videos[role_of[film]].append(number)
    for role in _ROLES:
        if videos[role]:
            built.split(role, role, videos[role])
    if not built.splits:
        raise DataError(f"{clips}: none of its clips has both a description and a film that {split} names")
    return built.build()


def _films(path: Path) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for line, row in read_rows(path, ["imdbid", "split"]):
        film, role = row["imdbid"].strip(), row["split"].strip()
        if role not in _ROLES:
            raise DataError(f"{path}:{line}: split is {role!r}, not {', '.join(_ROLES)}")
        if film in found:
            raise DataError(f"{path}:{line}: {film} is there twice")
        found[film] = role
    return found


def _descriptions(path: Path) -> dict[str, tuple[str, int]]:
    rows = [
        (row["videoid"].strip(), row["description"].strip(), line)
        for line, row in read_rows(path, ["videoid", "description"])
    ]
    count: dict[str, int] = {}
    for _, text, _ in rows:
        count[text] = count.get(text, 0) + 1
    return {name: (text, line) for name, text, line in rows if text and count[text] == 1}


def write_example(root: Path, examples: Examples) -> None:
    """Lay out with two clips a film and, beside them, two clips whose descriptions are the same."""
    clips, texts, films, number = [], [], [], 0
    for role, chosen in examples.items():
        for k, example in enumerate(chosen):
            film, name = f"tt{number // 2:07d}{role}", f"scene_{role}-{number:04d}"
            number += 1
            place(example.file, root / "videos" / f"{name}.mkv")
            if [film, role] not in films:
                films.append([film, role])
            clips.append([name, "2010.0", str(k + 1), "10", "2019", "A Film", "Some Scene", film])
            texts.append([name, film, example.captions[0]])
    for copy in ("copy-1", "copy-2"):
        clips.append([copy, "2010.0", "1", "10", "2019", "A Film", "Some Scene", films[0][0]])
        texts.append([copy, films[0][0], "Watch the best scenes of this film."])
    header = ["videoid", "year", "clip_idx", "clip_tot", "upload_year", "title", "clip_name", "imdbid"]
    folder = root / "metadata"
    write_csv(folder / _CLIPS, header, clips)
    write_csv(folder / _TEXTS, ["videoid", "imdbid", "description"], texts)
    write_csv(folder / _SPLIT, ["imdbid", "split"], films)


DATASET = Dataset(
    name="condensed-movies",
    title="Condensed Movies",
    splits={role: role for role in _ROLES},
    train="train",
    test="test",
    prepare=prepare,
    write_example=write_example,
    homepage="https://www.robots.ox.ac.uk/~vgg/research/condensed-movies/",
    licence="metadata for research use; the clips belong to their uploaders",
    files=f"{_CLIPS}, {_TEXTS}, {_SPLIT} (in metadata/)",
    obtain="metadata and a download script: the homepage's repository; videos as <videoid>.mkv or .mp4",
)
