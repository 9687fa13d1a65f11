"""How S3 is reached, for an index there and for videos there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vidsift.errors import IndexStateError

CONNECT, REQUEST = 5, 30
"""Seconds to connect, and for one request that carries data."""

_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


@dataclass(frozen=True)
class Access:
    """How S3 is reached, as the standard AWS variables say; the clients find credentials by themselves."""

    endpoint: str | None
    region: str | None

    @property
    def plain(self) -> bool:
        """Whether the connection is not encrypted."""
        return (self.endpoint or "").startswith("http://")


def access() -> Access:
    """What the environment says. Raises IndexStateError for an endpoint that would be reached in the clear
    over a network, unless AWS_ALLOW_HTTP says that it may."""
    variables = os.environ
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or None
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or None
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise IndexStateError(f"AWS_ENDPOINT_URL is {endpoint!r}; it looks like https://HOST:PORT")
        allowed = variables.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
        if parts.scheme == "http" and not allowed and not _LOOPBACK.fullmatch(parts.hostname):
            raise IndexStateError(
                f"{endpoint}: everything would cross the network unencrypted; take an https endpoint, or set "
                "AWS_ALLOW_HTTP=true"
            )
    return Access(endpoint, region or ("us-east-1" if endpoint else None))
