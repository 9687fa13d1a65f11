"""Connecting this process to Ray, without noise: to a cluster at an address, or to a Ray of its own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from vidsift.errors import EngineError

INSTALL = "pip install 'vidsift[ray]'"

LEAST_STORE = 256 << 20
"""Bytes that the object store of a Ray of our own has at least."""

Connection = Literal["was there", "joined", "started"]


def connect(address: str | None, cores: int, store_bytes: int = LEAST_STORE) -> Connection:
    """Connect to the Ray cluster at `address`, or start a Ray on this machine, unless there is a connection.

    cores, store_bytes: of a Ray that is started here, which listens on loopback only.
    Raises EngineError when there is no such cluster, or none can be started.
    """
    import ray

    if ray.is_initialized():
        return "was there"
    # What matters of what Ray has to say is said by us, the rest is in the log files of its session.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with warnings.catch_warnings(), _hushed():
            # LanceDB warns of any fork; what Ray forks here becomes another program at once.
            warnings.simplefilter("ignore")
            if address is not None:
                ray.init(address, **quiet)
                return "joined"
            ray.init(
                "local",
                num_cpus=cores,
                object_store_memory=max(LEAST_STORE, store_bytes),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
            return "started"
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        named = f"the Ray cluster {address!r} cannot be joined" if address else "Ray cannot be started"
        raise EngineError(f"{named}: {str(error).strip()}") from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep back what is written to stderr past Python; say it when the block fails."""
    sys.stderr.flush()
    usual = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(usual, kept.read())
            raise
        finally:
            os.dup2(usual, 2)
            os.close(usual)
