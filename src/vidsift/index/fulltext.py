"""The words of clips in the table: their columns, the full-text index over them, and what it finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vidsift.video.types import Cue

if TYPE_CHECKING:
    from vidsift.video.subtitles import Subtitles

WORDS = "words"

FIELDS = (
    pa.field(WORDS, pa.string()),  # the cues of the clip, one a line; null where nothing is said
    pa.field("cue_times", pa.string()),  # JSON: start and end seconds of each of them
    pa.field("subtitles", pa.string()),  # of the file: where its words are from; null where nobody has looked
    pa.field("subtitles_error", pa.string()),
)
"""Columns that came later: older tables lack them until they are written to."""

_WAITING, _PART, _MOST = 512, 50, 4096
# So many rows, or such a part of them, may wait for the full-text index, since a search reads those one by
# one; no more than the last, where that would be felt.


def columns_of(cues: Sequence[Cue]) -> dict[str, str | None]:
    """A clip's cues as they are stored."""
    if not cues:
        return {WORDS: None, "cue_times": None}
    times = [round(second, 3) for cue in cues for second in (cue.start, cue.end)]
    return {WORDS: "\n".join(cue.text for cue in cues), "cue_times": json.dumps(times)}


def restore_cues(words: str | None, times: str | None) -> tuple[Cue, ...]:
    """The cues of a clip from its columns."""
    if words is None or times is None:
        return ()
    seconds: list[float] = json.loads(times)
    lines = words.split("\n")
    return tuple(Cue(*span) for span in zip(seconds[::2], seconds[1::2], lines, strict=True))


def with_words(rows: pa.Table, found: dict[str, Subtitles]) -> pa.Table:
    """Rows of files with the words of `found` (by file id) in place of theirs."""
    from vidsift.video.subtitles import cues_between

    columns: dict[str, list[str | None]] = {field.name: [] for field in FIELDS}
    for row in rows.select(["file_id", "start", "end"]).to_pylist():
        new = found[row["file_id"]]
        here = cues_between(new.cues, row["start"], row["end"])
        values = columns_of(here) | {"subtitles": new.mark, "subtitles_error": new.problem or None}
        for name, value in values.items():
            columns[name].append(value)
    for field in FIELDS:
        place = rows.schema.get_field_index(field.name)
        rows = rows.set_column(place, field, pa.array(columns[field.name], pa.string()))
    return rows


def add_columns(table: Any) -> None:
    """Give a table that was made without them the columns of words, without a value."""
    missing = [field for field in FIELDS if field.name not in table.schema.names]
    if missing:
        table.add_columns(missing)


def widened(rows: pa.Table) -> pa.Table:
    """Rows of a table that may lack the columns of words, with them."""
    for field in FIELDS:
        if field.name not in rows.schema.names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def index_words(table: Any, whole: bool = False) -> None:
    """Make the full-text index, or make it anew when many rows wait for it (whole: any); nothing is done for
    a table without words.

    English words are found in all their forms and the commonest are passed over; other languages by the word,
    also those that put no space between words. Made anew, since adding to it comes with a compaction of the
    whole table: that costs more than reading the words again, and is for `Store.tidy` to decide.
    """
    name = index_name(table)
    if name is not None:
        stats = table.index_stats(name)
        most = min(max(_WAITING, stats.num_indexed_rows // _PART), _MOST)
        if stats.num_unindexed_rows <= (0 if whole else most):
            return
    elif WORDS not in table.schema.names or not table.count_rows(f"{WORDS} IS NOT NULL"):
        return
    from lancedb.index import FTS

    table.create_index(WORDS, config=FTS(base_tokenizer="icu"), replace=True)


def index_name(table: Any) -> str | None:
    """The name of the full-text index; None where there is none."""
    return next((index.name for index in table.list_indices() if index.columns == [WORDS]), None)


def tokens(table: Any, text: str) -> list[str]:
    """The words of a query as the full-text index knows them, each once."""
    return list(dict.fromkeys(token.text for token in table.tokenize(text, column=WORDS)))


def search(table: Any, text: str, limit: int) -> pa.Table:
    """The rows that say any word of a text, by BM25 (`_score`), best first."""
    from lancedb.query import MatchQuery

    query = table.search(MatchQuery(text, WORDS), query_type="fts")
    columns = ["clip_id", "path", "path_bytes", WORDS, "cue_times", "_score"]
    return query.select(columns).limit(limit).to_arrow()
