"""Which clips may be answers: by path, by time in their file, by length, by what is known of the file."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vidsift.errors import QueryError
from vidsift.video.address import absolute, is_address

if TYPE_CHECKING:
    from vidsift.index.derived import Derived

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Filter:
    """Only clips for which all of this holds.

    paths: files, folders with all that is below them, or glob patterns (`*` crosses folders, as in fnmatch);
        any of them may hold. A relative one is meant from the working directory, except for a pattern, which
        may match anywhere.
    after, before: the clip overlaps this part of its file, seconds.  shortest, longest: length of the clip,
        seconds.
    metadata: values of the clip's metadata, by key, compared as text: `{"codec": "h264", "width": "1280"}`.
    Raises QueryError for numbers without meaning.
    """

    paths: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None
    shortest: float | None = None
    longest: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("after", "before", "shortest", "longest"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise QueryError(f"{name} is seconds, at least 0, not {value!r}")
        for low, high in (("after", "before"), ("shortest", "longest")):
            first, last = getattr(self, low), getattr(self, high)
            if first is not None and last is not None and first > last:
                raise QueryError(f"{low} ({first:g} s) lies behind {high} ({last:g} s): nothing can match")

    def rows(self, arrays: Derived) -> Rows | None:
        """The rows that match, sorted; None if all may."""
        keep: npt.NDArray[np.bool_] | None = None
        if self.paths:
            keep = self._files(arrays)[arrays.file_of]
        starts, ends = arrays.spans[:, 0], arrays.spans[:, 1]
        for wanted in (
            None if self.after is None else ends > self.after,
            None if self.before is None else starts < self.before,
            None if self.shortest is None else ends - starts >= self.shortest,
            None if self.longest is None else ends - starts <= self.longest,
        ):
            if wanted is not None:
                keep = wanted if keep is None else keep & wanted
        if self.metadata:
            left = np.arange(len(arrays)) if keep is None else np.flatnonzero(keep)
            return left[[self._fits(arrays.metadata[row]) for row in left.tolist()]]
        return None if keep is None else np.flatnonzero(keep)

    def _files(self, arrays: Derived) -> npt.NDArray[np.bool_]:
        """[M] which files match by their paths."""
        exact, below, patterns = set(), [], []
        for path in self.paths:
            if any(c in path for c in "*?["):
                patterns.append(
                    path if os.path.isabs(path) or is_address(path) or path.startswith("*") else f"*/{path}"
                )
            else:
                named = absolute(path)
                exact.add(named)
                below.append(named.rstrip(os.sep) + os.sep)
        prefixes = tuple(below)
        found = np.zeros(len(arrays.paths), bool)
        for number in range(len(arrays.paths)):
            path = os.fsdecode(arrays.paths[number])
            found[number] = (
                path in exact
                or (bool(prefixes) and path.startswith(prefixes))
                or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
            )
        return found

    def _fits(self, metadata: bytes) -> bool:
        values: dict[str, Any] = json.loads(metadata)
        return all(key in values and str(values[key]) == text for key, text in self.metadata.items())
