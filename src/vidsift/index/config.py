"""`index.json`: which model and settings an index was built with; written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast, get_args

from vidsift.errors import IndexNotFoundError, IndexStateError, ModelMismatchError
from vidsift.index.confidence import Background
from vidsift.index.remote import read_object, write_object
from vidsift.index.rerank import RerankWeights
from vidsift.index.types import ScanSetting, is_under
from vidsift.video import SegmentConfig
from vidsift.video.address import is_address

CONFIG_NAME = "index.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelSpec:
    """What the index remembers of its model; `fingerprint` decides whether another model is the same.

    parts: the `ClipFeatures` fields that the index keeps of every clip, sorted.
    """

    name: str
    fingerprint: str
    width: int
    frames_per_clip: int
    parts: tuple[str, ...] = ("coarse", "frames")

    def check(self, name: str, fingerprint: str, folder: str, same_clips_as: Sequence[str] = ()) -> None:
        """Raise ModelMismatchError unless `fingerprint` is this model's, or that of one with the same clip
        vectors (`RetrievalModel.same_clips_as`)."""
        if self.fingerprint not in (fingerprint, *same_clips_as):
            raise ModelMismatchError(
                f"{folder}: built with model {self.name!r} (fingerprint {self.fingerprint}), but the model "
                f"at hand is {name!r} (fingerprint {fingerprint}). Use the model of the index, or index into "
                "another folder to use the new one"
            )


@dataclass(frozen=True)
class IndexConfig:
    """The whole of `index.json`. `roots` are the absolute paths that were asked to be indexed.

    picked: clips that the codes of a large index pick for the exact scan, as tuned; None is the default.
    background: what background sentences score in it; None when no writer has measured that.
    scan: how it is to be scanned; `auto` goes by size.
    """

    index_id: str
    created: str
    model: ModelSpec
    segmentation: SegmentConfig
    search: RerankWeights
    roots: tuple[str, ...] = field(default=())
    picked: int | None = None
    background: Background | None = None
    scan: ScanSetting = "auto"

    def with_root(self, path: str) -> IndexConfig:
        """Add a root; one that lies inside another is not named, one that holds others replaces them."""
        if any(is_under(path, root) for root in self.roots):
            return self
        outside = [root for root in self.roots if not is_under(root, path)]
        return replace(self, roots=tuple(sorted([*outside, path])))

    def without_root(self, path: str) -> IndexConfig:
        """Drop the roots that are `path` or lie below it."""
        return replace(self, roots=tuple(root for root in self.roots if not is_under(root, path)))


def read_config(folder: str) -> IndexConfig:
    """Read `folder/index.json`; IndexNotFoundError when there is none, IndexStateError when unusable."""
    path = os.path.join(folder, CONFIG_NAME)
    content = read_object(folder, CONFIG_NAME) if is_address(folder) else _read_file(path)
    if content is None:
        raise IndexNotFoundError(
            f"{folder}: no index here; build one with: vidsift index PATH --index {folder}"
        )
    return config_from(content, path)


def _read_file(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IndexStateError(f"{path}: cannot be read ({error})") from error


def config_from(content: bytes, path: str) -> IndexConfig:
    """The configuration that `config_bytes` wrote; IndexStateError, which names `path`, when unusable."""
    try:
        data = cast(dict[str, Any], json.loads(content))
    except ValueError as error:
        raise IndexStateError(f"{path}: cannot be read ({error})") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise IndexStateError(
            f"{path}: format {found!r}, this version of vidsift reads format {FORMAT}; "
            "use the version that wrote it, or index into a new folder"
        )
    try:
        return IndexConfig(
            index_id=data["id"],
            created=data["created"],
            model=ModelSpec(**(data["model"] | {"parts": tuple(data["model"]["parts"])})),
            segmentation=SegmentConfig(**data["segmentation"]),
            search=RerankWeights(**data["search"]),
            roots=tuple(data["roots"]),
            picked=data.get("picked"),
            background=Background(**data["background"]) if data.get("background") else None,
            scan=_setting(data.get("scan", "auto")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IndexStateError(f"{path}: damaged ({error!r})") from error


def _setting(name: Any) -> ScanSetting:
    if name not in get_args(ScanSetting):
        raise ValueError(f"scan is {name!r}, not one of {', '.join(get_args(ScanSetting))}")
    return cast(ScanSetting, name)


def config_bytes(config: IndexConfig) -> bytes:
    """The content of `index.json`."""
    data = {
        "format": FORMAT,
        "id": config.index_id,
        "created": config.created,
        "model": asdict(config.model),
        "segmentation": asdict(config.segmentation),
        "search": config.search.to_dict(),
        "roots": list(config.roots),
        **({} if config.picked is None else {"picked": config.picked}),
        **({} if config.background is None else {"background": config.background.to_dict()}),
        **({} if config.scan == "auto" else {"scan": config.scan}),
    }
    return json.dumps(data, indent=2).encode()


def write_config(folder: str, config: IndexConfig) -> None:
    """Write `folder/index.json` so that a reader sees the old one or the new one, never a part."""
    if is_address(folder):
        write_object(folder, CONFIG_NAME, config_bytes(config))
    else:
        write_atomically(os.path.join(folder, CONFIG_NAME), config_bytes(config))


def write_atomically(path: str, content: bytes) -> None:
    """Replace the file at `path` in one step that also survives a power cut."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    handle = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
