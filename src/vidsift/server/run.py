"""Run the service until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn
from fastapi import FastAPI

from vidsift.errors import ServiceError
from vidsift.index import Index
from vidsift.server.app import create_app
from vidsift.server.settings import ServerSettings


def run_server(
    settings: ServerSettings,
    verbose: bool = False,
    tell: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Open the index, listen, and serve until SIGINT or SIGTERM.

    tell: called with the address once connections are taken.  warn: with what an operator should know.
    Raises ServiceError when the address cannot be had, and what opening the index raises.
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named as TCP, or asyncio would not switch off Nagle's delay on what it accepts: 40 ms per answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ServiceError(
            f"{settings.host}:{settings.port}: cannot be listened on ({error.strerror}); take another --port"
        ) from error
    if not settings.is_loopback and warn is not None:
        warn("the connection is not encrypted: put a proxy with TLS in front (docs/operations.md)")
    with _searched(settings) as open_index:
        _serve(create_app(settings, open_index), settings, listener, tell)


@contextmanager
def _searched(settings: ServerSettings) -> Iterator[Callable[[str], Index]]:
    """How the index is opened: to be searched here, or by shards, which run as long as the block."""
    if not settings.shards:
        yield Index.open
        return
    from vidsift.index.sharded import ShardedIndex
    from vidsift.server.cluster import RayShards

    with RayShards(settings.index, settings.shards, settings.deadline, settings.address) as shards:
        # uvicorn raises it once more at its end: the shards are taken down then, which is no failure.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        yield partial(ShardedIndex.over, shards)


def _serve(
    app: FastAPI, settings: ServerSettings, listener: socket.socket, tell: Callable[[str], None] | None
) -> None:
    family = listener.family
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, h11_max_incomplete_event_size=32_768
    )
    server = uvicorn.Server(config)
    listener.listen(2048)
    if tell is not None:
        tell(f"http://{host}:{listener.getsockname()[1]}/")
    with suppress(KeyboardInterrupt):  # how a terminal ends it, once everything is put away
        server.run(sockets=[listener])
