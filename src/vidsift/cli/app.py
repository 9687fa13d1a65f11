"""The `vidsift` program: its commands, its exit codes, and how errors reach the user."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

import vidsift
from vidsift.cli import (
    converting,
    data,
    evaluating,
    exporting,
    indexing,
    searching,
    serving,
    training,
    worlds,
)
from vidsift.cli.output import BROKE_OFF, DONE, WRONG_USE, ReaderGone, complain
from vidsift.errors import QueryError, RecipeError, VidsiftError

# What typer answers when Ctrl-C ends a command.
INTERRUPTED = 130

app = typer.Typer(
    name="vidsift",
    help="Find videos, and the moment inside a video, from a sentence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"vidsift {vidsift.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("index")(indexing.index)
app.command("search")(searching.search)
app.command("info")(indexing.info)
app.command("remove")(indexing.remove)
app.command("tune")(indexing.tune)
app.command("compact")(indexing.compact)
app.command("demo")(worlds.demo)
app.command("storyboard")(worlds.storyboard)
app.command("train")(training.train)
app.command("extract")(training.extract)
app.command("distill-cache")(training.distill_cache)
app.command()(training.teachers)
app.command()(training.denoise)
app.add_typer(data.app, name="data")
app.command("eval")(evaluating.evaluate)
app.command("compare")(evaluating.compare)
app.command("serve")(serving.serve)
app.command("models")(searching.models)
app.command("convert")(converting.convert)
app.command()(exporting.export)


def run() -> None:
    """Run the program.

    Exit codes: 0 done, 1 done but some inputs failed, 2 wrong use, 3 could not start or broke off.
    """
    # A terminal that cannot show a file name gets it escaped.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    try:
        try:
            app()
        except SystemExit as end:  # how every command ends
            code = end.code if isinstance(end.code, int) else DONE
        sys.stdout.flush()
    except (QueryError, RecipeError) as error:
        complain(str(error))
        return WRONG_USE
    except (VidsiftError, _video_error()) as error:
        complain(str(error))
        return BROKE_OFF
    except (ReaderGone, BrokenPipeError):
        _drop_output()
        return DONE
    except OSError as error:
        _drop_output()
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        return BROKE_OFF
    if code == INTERRUPTED:
        complain("stopped; what was finished is kept, and the same command goes on from there")
        return BROKE_OFF
    return code


def _video_error() -> type[Exception]:
    # Asked for when something has gone wrong: its package imports numpy, which a help text need not wait for.
    from vidsift.video.errors import VideoError

    return VideoError


def _drop_output() -> None:
    """Nothing may be flushed to a broken stdout when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
