"""What tests of several parts need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Storage:
    """moto's server on a loopback port. It is no object storage: it stands in for S3, whose interface it has,
    with the conditional put that commits rest on.

    hook(method, path): called before a request is carried out, in the thread that serves it; a status that it
    returns is the answer instead.  answers: (method, path, status) of all requests.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.hook: Callable[[str, str], int | None] | None = None
        self.answers: list[tuple[str, str, int]] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._buckets = 0
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        refused = self.hook(method, path) if self.hook is not None else None
        if refused is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            self.answers.append((method, path, refused))
            start(f"{refused} refused", [("Content-Length", str(len(REFUSAL)))])
            return [REFUSAL]

        def noting(status: str, *rest: Any) -> Any:
            self.answers.append((method, path, int(status[:3])))
            return start(status, *rest)

        answer: Iterable[bytes] = self._app(environ, noting)
        return answer

    def new_bucket(self) -> str:
        """The address of an empty bucket."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return f"s3://{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="session")
def _storage() -> Iterator[Storage]:
    running = Storage()
    yield running
    running.close()


@pytest.fixture
def storage(
    _storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Storage:
    """A stand-in for S3, which the environment points to, and an empty cache."""
    _storage.hook = None
    _storage.answers.clear()
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _storage.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("VIDSIFT_CACHE", str(tmp_path_factory.mktemp("cache")))
    return _storage
