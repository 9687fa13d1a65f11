"""`vidsift serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsift.cli.indexing import IndexFolder
from vidsift.cli.output import complain, say

if TYPE_CHECKING:
    from vidsift.server.settings import ServerSettings

# Searches by shards that are at work at once, for a core: most of their time they wait.
_WAITING = 8


def serve(
    index: IndexFolder,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    token: Annotated[
        str | None, typer.Option(envvar="VIDSIFT_TOKEN", help="What every request has to know.")
    ] = None,
    library: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that may be indexed from the page, beside the index's own (repeatable)."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A host name that is answered to, such as that of a proxy in front (repeatable)."),
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of one client.")] = 100.0,
    searches: Annotated[int | None, typer.Option(min=1, help="At once; default: one per core.")] = None,
    shards: Annotated[
        int,
        typer.Option(min=0, help="Search by so many processes on Ray (vidsift\\[ray]); 0: by this one."),
    ] = 0,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster of the shards; default: one on this machine.")
    ] = None,
    deadline: Annotated[
        float, typer.Option(min=0.05, help="Seconds that a search of shards may take.")
    ] = 2.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every request, as JSON.")] = False,
) -> None:
    """Serve an index: a page to search your videos in a browser, and an HTTP API."""
    from vidsift.ingest.decode import default_workers
    from vidsift.server.settings import ServerSettings

    if address is not None and not shards:
        raise typer.BadParameter("--address is where shards run: say how many with --shards")
    settings = ServerSettings(
        index,
        host,
        port,
        token=token or None,
        libraries=tuple(library or ()),
        names=tuple(name or ()),
        rate=rate,
        searches=searches or default_workers() * (_WAITING if shards else 1),
        shards=shards,
        address=address,
        deadline=deadline,
    )
    serve_index(settings, verbose)


def serve_index(settings: ServerSettings, verbose: bool = False) -> None:
    """Serve until Ctrl-C, and say where."""
    import sys

    from vidsift.server.run import run_server

    def tell(url: str) -> None:
        say(f"vidsift at {url} (Ctrl-C ends it)")
        sys.stdout.flush()

    run_server(settings, verbose, tell, complain)
