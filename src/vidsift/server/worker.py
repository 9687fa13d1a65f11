"""The process of one indexing job: progress on stdout, a line of JSON each; ends when the service does."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from vidsift.errors import VidsiftError
from vidsift.ingest import Progress, index_paths

_EVERY = 0.2


def main() -> None:
    """argv: the index folder, then paths as JSON. The last line holds `report` or `error`."""
    folder, paths = sys.argv[1], json.loads(sys.argv[2])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the lines

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    def watch() -> None:
        # The service holds the other end: it closes it to cancel the job, and so does its death.
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= _EVERY:
            told = time.monotonic()
            said = asdict(progress)
            said["path"] = os.fsencode(progress.path).decode("utf-8", "backslashreplace")
            say({"progress": said})

    try:
        report = index_paths(paths, folder, progress=tell)
        say({"report": report.to_dict()})
    except VidsiftError as error:
        say({"error": str(error)})
    except KeyboardInterrupt:
        say({"cancelled": True})


if __name__ == "__main__":
    main()
