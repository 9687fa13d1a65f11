"""What commands print is safe for any terminal and any pipe."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.cli.output import clock, printable, progress_bar, size


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.0"), (4.26, "0:04.3"), (59.97, "1:00.0"), (61.5, "1:01.5"), (3723.4, "1:02:03.4")],
)
def test_times_are_shown_as_clocks(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(12, "12 B"), (2048, "2.0 KB"), (3.2e9, "3.2 GB"), (5e13, "50.0 TB")]
)
def test_sizes_are_shown_with_a_unit(count: float, shown: str) -> None:
    assert size(count) == shown


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or shown == ""
    shown.encode("utf-8")


def test_names_that_are_not_utf8_and_escape_sequences_cannot_reach_the_terminal() -> None:
    assert printable("a\udcffb") == "a\\udcffb"
    assert printable("\x1b[31mred\n") == "\\x1b[31mred\\n"
    assert printable("日本 ü") == "日本 ü"


def test_without_a_terminal_progress_is_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working", "files") as advance:
        time.sleep(0.02)  # no rate is told of less than ten milliseconds
        for done in range(101):
            advance(done, 100, "")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 11
    assert lines[5].startswith("working: 50/100 files, ")
    assert "left" in lines[5]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working", "files", quiet=True) as advance:
        advance(1, 2, "")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["vidsift", "vidsift.cli.app"])
def test_importing_the_program_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "lancedb", "faiss", "av", "pyarrow")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
