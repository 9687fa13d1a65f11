"""An index in object storage: how it is reached, what is kept of it on this machine, what goes wrong there.

The table is LanceDB's, which reads and writes S3 by itself. What lies beside it goes through pyarrow's file
systems: pyarrow is needed anyway, and its S3 client needs nothing else to be installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vidsift.endpoint import CONNECT, REQUEST, Access, access
from vidsift.errors import IndexStateError
from vidsift.video.address import StrPath, absolute, is_address

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

# Seconds without a byte of the small objects, which are asked for first: that nobody answers is said soon.
SILENCE, ATTEMPTS = 10, 2
# What clients say (in capitals), and what it means.
_REASONS = (
    (r"NO[_ ]?SUCH[_ ]?BUCKET", "there is no bucket {bucket!r}{at}"),
    (
        r"ACCESS[_ ]?DENIED|INVALID_?ACCESS_?KEY|SIGNATURE_?DOES_?NOT_?MATCH|FORBIDDEN|EXPIRED_?TOKEN"
        r"|UNAUTHORIZED|STATUS:? 40[13]",
        "no permission{at}: the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) "
        "are not set, not right, or not enough for this",
    ),
    (r"CERTIFICATE", "the certificate of the object storage{at} is not accepted"),
    (
        r"NETWORK_CONNECTION|REQUEST_TIMEOUT|ERROR SENDING REQUEST|TIMED ?OUT|TIMEOUT WAS REACHED"
        r"|COULDN'T CONNECT|CONNECTION REFUSED|DNS ERROR|COULD NOT RESOLVE",
        "the object storage{at} does not answer; is AWS_ENDPOINT_URL right?",
    ),
)


def locate(place: StrPath) -> str:
    """Where an index is: an absolute path, or s3://BUCKET/PREFIX without a slash at its end.

    Raises IndexStateError for an address at which none can be.
    """
    try:
        where = absolute(place)
    except ValueError as error:
        raise IndexStateError(str(error)) from error
    if not is_address(where):
        return where
    parts = urlsplit(where)
    clean = parts.scheme == "s3" and parts.netloc and parts.path.strip("/")
    if not clean or parts.query or parts.fragment or {"", ".", ".."} & set(parts.path[1:].split("/")):
        raise IndexStateError(f"{where}: an index lies in a folder, or at s3://BUCKET/PREFIX")
    return where


def at_hand(where: str, index_id: str) -> str:
    """The folder on this machine for what is derived from an index: its own, or one in the cache.

    The cache is $VIDSIFT_CACHE, else vidsift in $XDG_CACHE_HOME, else ~/.cache/vidsift.
    """
    if not is_address(where):
        return where
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    cache = os.environ.get("VIDSIFT_CACHE") or os.path.join(usual, "vidsift")
    return os.path.join(os.path.abspath(os.path.expanduser(cache)), "indexes", index_id)


def storage_options(where: str) -> dict[str, str] | None:
    """What LanceDB has to know to reach an index; None for a folder."""
    if not is_address(where):
        return None
    chosen = access()
    options = {
        "connect_timeout": f"{CONNECT}s",
        "timeout": f"{REQUEST}s",
        "client_max_retries": str(ATTEMPTS),
        "client_retry_timeout": str(REQUEST),
    }
    if chosen.endpoint is not None:
        options |= {"aws_endpoint": chosen.endpoint, "allow_http": str(chosen.plain).lower()}
    if chosen.region is not None:
        options["aws_region"] = chosen.region
    return options


@lru_cache(maxsize=16)
def _client(chosen: Access, bucket: str) -> FileSystem:
    from pyarrow import fs

    settings: dict[str, Any] = {"region": chosen.region or fs.resolve_s3_region(bucket)}
    if chosen.endpoint is not None:
        parts = urlsplit(chosen.endpoint)
        settings |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    patience = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return fs.S3FileSystem(
        connect_timeout=CONNECT, request_timeout=SILENCE, retry_strategy=patience, **settings
    )


@contextmanager
def _client_of(where: str) -> Iterator[tuple[FileSystem, str]]:
    """The client for an index and what the index is called in it; its errors become IndexStateError."""
    path = where.removeprefix("s3://")
    try:
        yield _client(access(), path.partition("/")[0]), path
    except OSError as error:
        raise IndexStateError(explain(where, error) or f"{where}: {error}") from error


def explain(where: str, error: BaseException) -> str | None:
    """What a client's error means, in one line; None when that is not known."""
    said = str(error).upper()
    for pattern, reason in _REASONS:
        if re.search(pattern, said):
            endpoint = access().endpoint
            at = f" at {endpoint}" if endpoint else ""
            return f"{where}: " + reason.format(bucket=where.split("/")[2], at=at)
    return None


def read_object(where: str, name: str) -> bytes | None:
    """One of an index's objects; None when there is none of this name.

    Raises IndexStateError: no such bucket, no permission, no answer.
    """
    from pyarrow import fs

    with _client_of(where) as (client, path):
        try:
            with client.open_input_stream(f"{path}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            if client.get_file_info(path.partition("/")[0]).type == fs.FileType.NotFound:
                raise OSError("no such bucket") from error
            return None


def write_object(where: str, name: str, content: bytes) -> None:
    """Put one of an index's objects in place: readers see the old one or the new one."""
    with _client_of(where) as (client, path), client.open_output_stream(f"{path}/{name}") as stream:
        stream.write(content)


def list_objects(where: str, below: str = "", deep: bool = False) -> dict[str, int]:
    """Names directly (or, deep, anywhere) below an index's prefix, with their bytes."""
    from pyarrow import fs

    with _client_of(where) as (client, path):
        place = f"{path}/{below}" if below else path
        found = client.get_file_info(fs.FileSelector(place, allow_not_found=True, recursive=deep))
        return {info.path.removeprefix(f"{place}/"): info.size or 0 for info in found}
