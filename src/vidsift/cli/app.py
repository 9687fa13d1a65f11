"""The `vidsift` program: its commands, its exit codes, and how errors reach the user."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import vidsift
from vidsift.cli import converting, indexing, searching, worlds
from vidsift.cli.output import BROKE_OFF, WRONG_USE, complain
from vidsift.errors import QueryError, RecipeError, VidsiftError
from vidsift.video.errors import VideoError

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
app.command("demo")(worlds.demo)
app.command("storyboard")(worlds.storyboard)
app.command("train")(worlds.train)
app.command("models")(searching.models)
app.command("convert")(converting.convert)


def run() -> None:
    """Run the program.

    Exit codes: 0 done, 1 done but some inputs failed, 2 wrong use, 3 could not start or broke off.
    """
    try:
        app()
    except (QueryError, RecipeError) as error:
        complain(str(error))
        sys.exit(WRONG_USE)
    except (VidsiftError, VideoError) as error:
        complain(str(error))
        sys.exit(BROKE_OFF)
    except KeyboardInterrupt:
        complain("stopped; what was finished is kept, the same command goes on from there")
        sys.exit(BROKE_OFF)
    except BrokenPipeError:
        # The reader of our output (`head`, say) has seen enough; nothing may be flushed at exit any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKE_OFF)
