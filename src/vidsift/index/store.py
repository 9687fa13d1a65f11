"""The store of record: a LanceDB table with one row per clip, and one per file that failed."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidsift.errors import IndexStateError
from vidsift.index import fulltext
from vidsift.index.config import ModelSpec
from vidsift.index.remote import explain, storage_options
from vidsift.index.types import ClipRecord, FileRecord, file_key
from vidsift.index.versions import TABLE
from vidsift.video.address import is_address

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from vidsift.video.subtitles import Subtitles
    from vidsift.video.types import Cue

CHUNK = 256
"""Files per commit when many change hands at once ..."""

CHUNK_CLIPS = 4096
"""... and clips, unless one file has more: bounds the memory of a move."""

SMALL_FRAGMENTS = 32
"""Compact once this many small fragments have gathered: every commit leaves one."""

OLD_VERSIONS = timedelta(hours=1)
"""Versions that a reader may still hold are kept this long."""


RETRY_AFTER = (0.2, 1.0, 4.0)
"""Seconds (up to twice as many) before a commit that others came in between is made once more; LanceDB itself
has tried for half a minute before."""

REASON = 400
"""Characters of LanceDB's reason that are passed on."""

_CONFLICT = re.compile(r"commit conflict|concurrent writ|contention", re.IGNORECASE)
_FOUNDED = b"vidsift"
_KEY = ("file_id", "clip")


@contextmanager
def _trouble(folder: str) -> Iterator[None]:
    """Say which index is at fault when LanceDB cannot go on."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        known = explain(folder, error) if is_address(folder) else None
        if len(reason) > REASON:
            reason = reason[:REASON] + " ..."
        raise IndexStateError(
            known
            or f"{folder}: the index's table ({TABLE}.lance) cannot be used: {reason}. If it is damaged, "
            "restore the folder from a backup, or delete it and index again"
        ) from error


def _connect(folder: str) -> Any:
    return lancedb.connect(folder, storage_options=storage_options(folder))


def _keyed(schema: pa.Schema) -> pa.Schema:
    """The schema with `_KEY` declared as the table's key: then two commits that insert the same rows, neither
    of which has seen the other's, are a conflict to LanceDB, and not two rows."""
    for place, name in enumerate(_KEY, 1):
        at = schema.get_field_index(name)
        key = {"lance-schema:unenforced-primary-key": "true"}
        key["lance-schema:unenforced-primary-key:position"] = str(place)
        schema = schema.set(at, schema.field(at).with_metadata(key))
    return schema


def _schema(width: int, frames: int) -> pa.Schema:
    """Columns of the table; vectors are null in the row of a failed file."""
    return pa.schema(
        [
            pa.field("file_id", pa.string(), nullable=False),
            pa.field("clip", pa.int32(), nullable=False),
            pa.field("clip_id", pa.string()),
            pa.field("path", pa.string(), nullable=False),
            pa.field("path_bytes", pa.binary()),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("duration", pa.float64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string(), nullable=False),
            pa.field("clips", pa.int32(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("coarse", pa.list_(pa.float32(), width)),
            pa.field("frames", pa.list_(pa.int8(), frames * width)),
            pa.field("scales", pa.list_(pa.float32(), frames)),
            pa.field("times", pa.list_(pa.float64(), frames)),
            pa.field("count", pa.int32()),
            pa.field("parts", pa.large_binary()),
            pa.field("thumbnail", pa.binary()),
            pa.field("metadata", pa.string()),
            *fulltext.FIELDS,
        ]
    )


_FILE_COLUMNS = [
    "path",
    "path_bytes",
    "fingerprint",
    "size",
    "mtime_ns",
    "duration",
    "status",
    "error",
    "clips",
    "subtitles",
    "subtitles_error",
]


def _path_columns(path: str) -> dict[str, Any]:
    """A path as text that any tool can show and, where its bytes are not UTF-8, the bytes themselves."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", errors="backslashreplace")
    return {"path": text, "path_bytes": None if text.encode() == raw else raw}


def restore_path(text: str, raw: bytes | None) -> str:
    """The path that `os` functions take, from the two path columns."""
    return text if raw is None else os.fsdecode(raw)


class Store:
    """One opened version of the table, and the writes that make new ones.

    Every write is one commit of the table: a file's rows appear, change and go together or not at all, so
    a writer killed at any instant leaves whole files only. A handle sees the version it opened plus its
    own writes. Table trouble is raised as IndexStateError with the folder's path.

    In object storage several writers may commit at once. There a commit is the conditional put of the next
    version, which one of them wins; the others' are made again on top of it, and rows are always merged by
    their key, so that the same file committed twice is there once.
    """

    def __init__(self, folder: str, table: Any, model: str) -> None:
        self.folder = folder
        self.model = model
        self._table = table

    @classmethod
    def create(cls, folder: str, width: int, frames: int, model: str) -> Store:
        """Make an empty table in `folder` for vectors of `width` and `frames` frames a clip."""
        with _trouble(folder):
            database = _connect(folder)
            # A creation that was killed may have left a table behind.
            mode = "overwrite" if os.path.isdir(os.path.join(folder, f"{TABLE}.lance")) else "create"
            table = database.create_table(TABLE, schema=_schema(width, frames), mode=mode)
        return cls(folder, table, model)

    @classmethod
    def found(cls, folder: str, model: ModelSpec, config: bytes) -> bytes:
        """Make an empty table in object storage, unless somebody has; the `config` of whoever made it."""
        schema = _keyed(_schema(model.width, model.frames_per_clip)).with_metadata({_FOUNDED: config})
        with _trouble(folder):
            database = _connect(folder)
            try:
                table = database.create_table(TABLE, schema=schema, mode="create")
            except (RuntimeError, ValueError, OSError) as error:
                # Another writer made it in the same instant, or one that was killed before it came further.
                log.info("%s: %s", folder, error)
                table = database.open_table(TABLE)
            founded = (table.schema.metadata or {}).get(_FOUNDED)
        if founded is None:
            raise IndexStateError(f"{folder}: a table that is no index lies there; choose another prefix")
        return cast(bytes, founded)

    @classmethod
    def open(cls, folder: str, model: str) -> Store:
        """Open the latest version of the table in `folder`."""
        if not is_address(folder) and not os.path.isdir(os.path.join(folder, f"{TABLE}.lance")):
            raise IndexStateError(f"{os.path.join(folder, TABLE)}.lance: the index's table is missing")
        with _trouble(folder):
            return cls(folder, _connect(folder).open_table(TABLE), model)

    def pinned(self) -> Store:
        """A second handle that goes on seeing this version while the first one writes."""
        with _trouble(self.folder):
            table = _connect(self.folder).open_table(TABLE)
            table.checkout(self.version)
        return Store(self.folder, table, self.model)

    @property
    def version(self) -> int:
        with _trouble(self.folder):
            return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    # --- reading

    def files(self) -> dict[str, FileRecord]:
        """Every file the table knows, failed ones too, by path."""
        return self._files("clip = 0")

    def file(self, path: str) -> FileRecord | None:
        """The record of one file in the latest version; None for a file that is not known."""
        with _trouble(self.folder):
            self._table.checkout_latest()
        return self._files(f"clip = 0 AND {_in_files([path])}").get(path)

    def _files(self, condition: str) -> dict[str, FileRecord]:
        with _trouble(self.folder):
            # Older tables know nothing of words.
            names = [name for name in _FILE_COLUMNS if name in self.schema.names]
            rows = self._table.search().where(condition).select(names).to_arrow().to_pylist()
        records: dict[str, FileRecord] = {}
        for row in rows:
            row["subtitles_error"] = row.get("subtitles_error") or ""
            row["path"] = restore_path(row["path"], row.pop("path_bytes"))
            records[row["path"]] = FileRecord(**row)
        return records

    def count_clips(self) -> int:
        """Clips that can be found (rows of failed files are none)."""
        with _trouble(self.folder):
            return int(self._table.count_rows("status != 'failed'"))

    def rows(self, paths: Sequence[str]) -> pa.Table:
        """All rows of the files at `paths`."""
        with _trouble(self.folder):
            return self._table.search().where(_in_files(paths)).to_arrow()

    def clip_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of all clips, in table order, without those of failed files."""
        with _trouble(self.folder):
            query = self._table.search().where("status != 'failed'").select(list(columns))
            yield from query.to_batches()

    def clips_named(
        self, clip_ids: npt.NDArray[np.bytes_], columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of clips (`clip_id` is among `columns`), in the order of their ids; of several rows with
        the same id, whose vectors are the same, any one stands for all. KeyError for an unknown id."""
        for begin in range(0, len(clip_ids), CHUNK_CLIPS):
            wanted = [name.decode() for name in clip_ids[begin : begin + CHUNK_CLIPS].tolist()]
            listed = ", ".join(_quote(clip_id) for clip_id in sorted(set(wanted)))
            with _trouble(self.folder):
                query = self._table.search().where(f"clip_id IN ({listed})").select(list(columns))
                found = query.to_arrow().combine_chunks()
            at = {clip_id: row for row, clip_id in enumerate(found.column("clip_id").to_pylist())}
            yield from found.take([at[clip_id] for clip_id in wanted]).combine_chunks().to_batches()

    def thumbnail(self, clip_id: str) -> bytes:
        """The JPEG of a clip; KeyError when the table (any more) has no such clip."""
        with _trouble(self.folder):
            self._table.checkout_latest()
            query = self._table.search().where(f"clip_id = {_quote(clip_id)}").select(["thumbnail"])
            found = query.limit(1).to_arrow().column("thumbnail").to_pylist()
        if not found:
            raise KeyError(clip_id)
        return cast(bytes, found[0])

    def parts(self, clip_ids: Sequence[str]) -> list[bytes]:
        """The packed parts of clips, in their order; KeyError for a clip that the table does not hold."""
        with _trouble(self.folder):
            listed = ", ".join(_quote(clip_id) for clip_id in sorted(set(clip_ids)))
            query = self._table.search().where(f"clip_id IN ({listed})").select(["clip_id", "parts"])
            found = {row["clip_id"]: row["parts"] for row in query.to_arrow().to_pylist()}
        return [found[clip_id] for clip_id in clip_ids]

    def with_unread_tracks(self) -> set[str]:
        """Files that have tracks of subtitles in them which nobody has looked at: an older version wrote
        their rows."""
        unread = "subtitles IS NULL AND " if "subtitles" in self.schema.names else ""
        count = '"subtitle_streams": '
        tracks = f"metadata LIKE '%{count}%' AND metadata NOT LIKE '%{count}0%'"
        with _trouble(self.folder):
            query = self._table.search().where(f"clip = 0 AND {unread}{tracks}")
            rows = query.select(["path", "path_bytes"]).to_arrow().to_pylist()
        return {restore_path(row["path"], row["path_bytes"]) for row in rows}

    @cached_property
    def has_words(self) -> bool:
        """Whether there was a full-text index when this was first asked."""
        with _trouble(self.folder):
            return fulltext.index_name(self._table) is not None

    def word_tokens(self, text: str) -> list[str]:
        """The words of a query as the full-text index knows them."""
        with _trouble(self.folder):
            return fulltext.tokens(self._table, text)

    def search_words(self, text: str, limit: int) -> pa.Table:
        """Rows of clips that say any word of a text, by BM25 (`_score`), best first."""
        with _trouble(self.folder):
            return fulltext.search(self._table, text, limit)

    @staticmethod
    def cues_at(rows: pa.Table, place: int) -> tuple[Cue, ...]:
        """The cues of a clip in what `search_words` gave."""
        return fulltext.restore_cues(rows["words"][place].as_py(), rows["cue_times"][place].as_py())

    # --- writing

    def replace_files(self, files: Sequence[tuple[FileRecord, Sequence[ClipRecord]]], known: bool) -> None:
        """Commit new rows of whole files in one step.

        known: whether the table may hold rows of some of these files; they are replaced. In object storage it
        always may: another writer can have come first.
        """
        self._widen()
        known = known or is_address(self.folder)
        rows = [row for file, clips in files for row in self._file_rows(file, clips)]
        table = pa.Table.from_pylist(rows, schema=self.schema)
        self._commit(table, [file.path for file, _ in files] if known else [])

    def move_files(self, source: Store, moves: Sequence[tuple[str, FileRecord]], gone: Sequence[str]) -> None:
        """Give rows that `source` holds under an old path to new files; drop those of `gone` as well.

        moves: (path in `source`, the file that gets its rows). Chunks of files commit one by one.
        """
        leaving = set(gone)
        self._widen()
        for part in _chunks(moves):
            taken = fulltext.widened(source.rows(sorted({old for old, _ in part})))
            keys = pa.array(taken.column("file_id").to_pylist(), pa.string())
            tables = []
            for old, file in part:
                rows = taken.filter(pc.equal(keys, file_key(old)))
                tables.append(self._readdress(rows, file))
            dropped = {file.path for _, file in part} | {old for old, _ in part if old in leaving}
            self._commit(pa.concat_tables(tables), sorted(dropped))

    def remove_files(self, paths: Sequence[str]) -> None:
        """Drop all rows of the files at `paths`."""
        with _trouble(self.folder):
            for begin in range(0, len(paths), CHUNK):
                condition = _in_files(paths[begin : begin + CHUNK])
                self._committing(partial(self._table.delete, condition))

    def renew_words(self, found: Sequence[tuple[FileRecord, Subtitles]]) -> None:
        """Put new words in place of those of files; all else stays. Chunks of files commit one by one."""
        words = {file_key(file.path): new for file, new in found}
        self._widen()
        for part in _chunks([(file.path, file) for file, _ in found]):
            paths = [path for path, _ in part]
            self._commit(fulltext.with_words(self.rows(paths), words), paths)

    def index_words(self, whole: bool = False) -> None:
        """Keep the full-text index over the clips' words about up to date, or wholly; a table without words
        gets none."""
        with _trouble(self.folder):
            fulltext.index_words(self._table, whole)

    def _widen(self) -> None:
        with _trouble(self.folder):
            fulltext.add_columns(self._table)

    def tidy(self) -> None:
        """Compact the table when many small fragments have gathered, and forget versions long unused."""
        with _trouble(self.folder):
            if self._table.stats()["fragment_stats"]["num_small_fragments"] < SMALL_FRAGMENTS:
                return
            try:
                self._table.optimize(cleanup_older_than=OLD_VERSIONS)
            except (RuntimeError, ValueError, OSError) as error:
                if not self._is_conflict(error):
                    raise
                log.info("%s: others write, so compaction is left to a later run (%s)", self.folder, error)

    def compact(self) -> None:
        """Put fragments together, drop removed rows for good, and forget versions long unused."""
        with _trouble(self.folder):
            self._committing(partial(self._table.optimize, cleanup_older_than=OLD_VERSIONS))

    def fragments(self) -> int:
        """Pieces that the table is in: every commit adds one, compaction puts them together."""
        with _trouble(self.folder):
            return int(self._table.stats()["fragment_stats"]["num_fragments"])

    def _commit(self, rows: pa.Table, drop: Sequence[str]) -> None:
        with _trouble(self.folder):
            if not drop:
                self._table.add(rows)
                return
            merge = self._table.merge_insert(list(_KEY))
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(_in_files(drop))
            # The rows of failed files have no vectors, which LanceDB would take for bad ones.
            self._committing(partial(merge.execute, rows, on_bad_vectors="null"))

    def _committing(self, act: Callable[[], object]) -> None:
        """Make a commit, again where others' came in between."""
        for wait in (*RETRY_AFTER, None):
            try:
                act()
                return
            except (RuntimeError, ValueError, OSError) as error:
                if not self._is_conflict(error):
                    raise
                if wait is None:
                    raise IndexStateError(
                        f"{self.folder}: others commit to this index all the time; what was committed is "
                        "kept, and the same command goes on from there"
                    ) from error
            time.sleep(wait * random.uniform(1, 2))
            self._table.checkout_latest()

    def _is_conflict(self, error: Exception) -> bool:
        return is_address(self.folder) and _CONFLICT.search(str(error)) is not None

    def _file_rows(self, file: FileRecord, clips: Sequence[ClipRecord]) -> Iterator[dict[str, Any]]:
        if len(clips) != file.clips:
            raise ValueError(f"{file.path}: {len(clips)} clips given, {file.clips} announced")
        shared = {name: getattr(file, name) for name in _FILE_COLUMNS[2:]}
        shared |= _path_columns(file.path)
        for name in ("error", "subtitles_error"):
            shared[name] = getattr(file, name).encode("utf-8", errors="backslashreplace").decode()
        shared["subtitles_error"] = shared["subtitles_error"] or None
        shared |= {"file_id": file_key(file.path), "model": self.model}
        if not clips:
            yield shared | {"clip": 0}
        for index, clip in enumerate(clips):
            vectors = clip.vectors
            if not (np.isfinite(vectors.coarse).all() and np.isfinite(vectors.scales).all()):
                raise ValueError(f"{file.path}: the model gave a vector that is not finite")
            yield shared | {
                "clip": index,
                "clip_id": clip.clip_id,
                "start": clip.start,
                "end": clip.end,
                "coarse": vectors.coarse,
                "frames": vectors.frames.reshape(-1),
                "scales": vectors.scales,
                "times": vectors.times,
                "count": vectors.count,
                "parts": clip.parts,
                "thumbnail": clip.thumbnail,
                "metadata": json.dumps(clip.metadata, ensure_ascii=True, sort_keys=True),
                **fulltext.columns_of(clip.cues),
            }

    def _readdress(self, rows: pa.Table, file: FileRecord) -> pa.Table:
        columns = _path_columns(file.path)
        columns |= {"file_id": file_key(file.path), "size": file.size, "mtime_ns": file.mtime_ns}
        for name, value in columns.items():
            field = rows.schema.field(name)
            column = pa.array([value] * len(rows), field.type)
            rows = rows.set_column(rows.schema.get_field_index(name), field, column)
        return rows


def _chunks(moves: Sequence[tuple[str, FileRecord]]) -> Iterator[list[tuple[str, FileRecord]]]:
    part: list[tuple[str, FileRecord]] = []
    clips = 0
    for move in moves:
        if part and (len(part) == CHUNK or clips + move[1].clips > CHUNK_CLIPS):
            yield part
            part, clips = [], 0
        part.append(move)
        clips += move[1].clips
    if part:
        yield part


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in_files(paths: Iterable[str]) -> str:
    keys = ", ".join(_quote(file_key(path)) for path in paths)
    return f"file_id IN ({keys})" if keys else "false"  # SQL has no empty list


def fixed_list(batch: pa.RecordBatch, name: str, width: int) -> npt.NDArray[Any]:
    """A fixed-size list column without nulls as an array [rows, width]."""
    column = batch.column(name)
    return cast(npt.NDArray[Any], column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), width))
