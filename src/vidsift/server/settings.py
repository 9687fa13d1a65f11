"""What a service is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from vidsift.errors import ServiceError


@dataclass(frozen=True)
class ServerSettings:
    """index: the folder (or s3:// address) that is searched.  token: asked of every request; needed for any
    address that other machines can reach.  libraries: folders (besides the index's own roots) whose files may
    be indexed.
    names: host names that it answers to beside its own, such as that of a proxy in front.
    rate: requests a second of one client on average; four times as many at once.  image_bytes, json_bytes:
    the largest bodies.  searches: at once; others wait.
    shards: search in so many processes of a Ray cluster (at `address`; None starts one here), each question
    within `deadline` seconds; 0 searches in this process.
    Raises ServiceError for an open address without a token.
    """

    index: str | Path
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    libraries: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    rate: float = 100.0
    image_bytes: int = 16 << 20
    json_bytes: int = 64 << 10
    searches: int = 2
    shards: int = 0
    address: str | None = None
    deadline: float = 2.0

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.token:
            raise ServiceError(
                f"{self.host}: other machines can reach this address, so it needs a token: --token, or the "
                "environment variable VIDSIFT_TOKEN"
            )
        if self.token is not None and len(self.token) < 8:
            raise ServiceError("the token is too short to protect anything: at least 8 characters")

    @property
    def burst(self) -> float:
        """Requests of one client at once."""
        return 4 * self.rate

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
