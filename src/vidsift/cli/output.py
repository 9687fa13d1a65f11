"""What commands print: one JSON document or readable lines on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

DONE, SOME_FAILED, WRONG_USE, BROKE_OFF = 0, 1, 2, 3


def stderr() -> Console:
    """The console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def printable(text: str) -> str:
    """A text that any terminal takes: control characters and bytes that are not UTF-8 are escaped."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in safe)


class ReaderGone(Exception):  # noqa: N818 - not an error
    """Whoever reads our output (`head`, say) has seen enough."""


def say(text: str = "") -> None:
    """Print one line of a command's answer on stdout.  Raises ReaderGone when nobody reads it any more."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def say_json(document: dict[str, Any]) -> None:
    """Print a command's answer as one JSON document.

    File names that are not UTF-8 keep their bytes as escaped surrogates, which `json.loads` gives back.
    """
    say(json.dumps(document, ensure_ascii=True))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout: numbers to the right, cut to the terminal where there is one."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        number = bool(rows) and isinstance(rows[0][place], int | float)
        shown.add_column(column, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*(printable(str(value)) for value in row))
    # Wide enough for whole names where there is no terminal to fit into.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(shown)


def complain(text: str) -> None:
    """Print an error on stderr."""
    sys.stderr.write(f"vidsift: {printable(text)}\n")


def clock(seconds: float) -> str:
    """Seconds as m:ss.t, or h:mm:ss.t for long videos."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


Advance = Callable[[float, float | None, str], None]


@contextmanager
def progress_bar(title: str, unit: str, quiet: bool = False) -> Iterator[Advance]:
    """A bar with rate and time left on stderr; yields `advance(done, total, note)`.

    Without a terminal a line is printed at every tenth of the way instead; quiet prints nothing.
    """
    if quiet:
        yield lambda done, total, note: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=stderr(), transient=True) as bar:
            task = bar.add_task(title, total=1, rate="", note="")

            def advance(done: float, total: float | None, note: str) -> None:
                speed = bar.tasks[0].speed
                rate = f"{speed:,.1f} {unit}/s" if speed else ""
                bar.update(task, completed=done, total=total or 1, rate=rate, note=printable(note))

            yield advance
    else:
        yield _lines(title, unit)


class Bars:
    """One progress bar after another, as the title changes."""

    def __init__(self, stack: ExitStack, quiet: bool) -> None:
        self._stack, self._quiet = stack, quiet
        self._title = ""
        self._advance: Advance | None = None

    def rows(self, title: str, done: int, rows: int) -> None:
        """So many of so many rows."""
        self.advance(title, "rows")(done, rows, "")

    def advance(self, title: str, unit: str) -> Advance:
        """The bar of this title; a former one is closed."""
        if self._advance is None or title != self._title:
            self._stack.close()
            self._title = title
            self._advance = self._stack.enter_context(progress_bar(title, unit, self._quiet))
        return self._advance


def _lines(title: str, unit: str) -> Advance:
    import time

    began, said = time.monotonic(), -1

    def advance(done: float, total: float | None, note: str) -> None:
        nonlocal said
        tenth = int(10 * done / total) if total else 0
        if tenth == said:
            return
        said = tenth
        spent = time.monotonic() - began
        rate = done / spent if spent > 0.01 else 0.0
        left = f", {clock((total - done) / rate)} left" if total and rate else ""
        whole = f"/{total:,.0f}" if total else ""
        speed = f", {rate:,.1f} {unit}/s" if rate else ""
        sys.stderr.write(f"{title}: {done:,.0f}{whole} {unit}{speed}{left}\n")
        sys.stderr.flush()

    return advance
