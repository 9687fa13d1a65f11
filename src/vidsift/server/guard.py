"""What stands before every request: who asks, from where, how often, how much; and what is counted of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from vidsift.server.measures import Measures
from vidsift.server.settings import ServerSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("vidsift.server")

COOKIE = "vidsift"
OPEN = frozenset({"/", "/healthz", "/readyz", "/api/v1/login"})
"""What may be asked without the token: nothing of it tells anything about the library."""

IMAGES = "/api/v1/search/image"
_CLIENTS = 10_000
_HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; "
    b"base-uri 'none'; form-action 'self'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
}


class TooLargeError(Exception):
    """The body is larger than allowed."""


def cookie_value(token: str) -> str:
    """What a browser keeps in place of the token."""
    return hmac.new(token.encode(), b"vidsift cookie", hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, settings: ServerSettings, measures: Measures) -> None:
        self._app, self._settings, self._measures = app, settings, measures
        # client -> (requests left, when that was counted)
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS.items()]
            await send(message)

        refused = self._refuse(scope, headers)
        try:
            if refused is not None:
                await _answer(watch, *refused)
            else:
                await self._app(scope, self._limited(scope, receive), watch)
        except TooLargeError:
            if not status:
                await _answer(watch, 413, f"the body is larger than {self._limit(scope):,} bytes")
        except Exception:
            log.exception("%s %s broke", scope["method"], scope["path"])
            if not status:
                await _answer(watch, 500, "something went wrong here; the service's log says what")
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self._measures.request(route, status, seconds)
            said = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1e3 * seconds, 1),
                "client": (scope.get("client") or ("", 0))[0],
            }
            log.info(json.dumps(said, ensure_ascii=True))

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._settings.is_loopback and not self._is_mine(host):
            # A page elsewhere whose name was pointed at this machine must not read the library.
            return 421, "this service does not answer to that host name; --name adds one"
        origin = headers.get(b"origin", b"").decode("latin-1")
        if scope["method"] not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
            return 403, "requests from other sites are not taken"
        path = scope["path"]
        if (
            self._settings.token
            and path not in OPEN
            and not path.startswith("/static/")
            and not self._knows(headers)
        ):
            return 401, "this service asks for its token: Authorization: Bearer ..."
        client = (scope.get("client") or ("", 0))[0]
        if not self._allow(client):
            return 429, "too many requests; slow down"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is not a number"
        if int(length) > self._limit(scope):
            return 413, f"the body is larger than {self._limit(scope):,} bytes"
        return None

    def _is_mine(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", "127.0.0.1", "::1", self._settings.host, *self._settings.names)

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        token = self._settings.token or ""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode()):
            return True
        try:
            jar = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        kept = jar[COOKIE].value if COOKIE in jar else ""
        return hmac.compare_digest(kept.encode(), cookie_value(token).encode())

    def _allow(self, client: str) -> bool:
        """A bucket of `burst` requests a client, filled with `rate` a second."""
        now = time.monotonic()
        left, counted = self._allowances.pop(client, (float(self._settings.burst), now))
        left = min(left + (now - counted) * self._settings.rate, self._settings.burst)
        self._allowances[client] = (max(left - 1, 0.0), now)
        while len(self._allowances) > _CLIENTS:
            self._allowances.popitem(last=False)
        return left >= 1

    def _limit(self, scope: Scope) -> int:
        return self._settings.image_bytes if scope["path"] == IMAGES else self._settings.json_bytes

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        taken = 0

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit(scope):
                raise TooLargeError
            return message

        return take


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
