"""The decoding process: takes paths on stdin, gives events on stdout, goes when its parent goes."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import sys
import threading
from typing import Any, BinaryIO

from vidsift.ingest.reading import read_file

HEADER = struct.Struct("<Q")


def send(out: BinaryIO, message: Any) -> None:
    """Write one message: its length, then its pickle."""
    body = pickle.dumps(message, protocol=5)
    out.write(HEADER.pack(len(body)))
    out.write(body)
    out.flush()


def receive(source: BinaryIO) -> Any:
    """Read one message; EOFError when the other side has gone."""
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError
    return pickle.loads(source.read(HEADER.unpack(header)[0]))


def main() -> None:
    """Serve requests (path bytes, ReadSettings) one after the other until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the events
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                requests.put(receive(sys.stdin.buffer))
        except EOFError:
            os._exit(0)  # also out of a decoder that hangs

    threading.Thread(target=listen, daemon=True).start()
    try:
        while True:
            raw, settings = requests.get()
            for event in read_file(os.fsdecode(raw), settings):
                send(out, event)
    except BrokenPipeError:
        os._exit(0)
