"""A proxy before the server that resets connections, stalls them, and swallows answers.

It leads where it is told to, as an address that follows a failover does.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

from psycopg.conninfo import conninfo_to_dict

from tests.relay import Relay

__all__ = ["COMMITTED", "Proxy"]

COMMITTED = b"COMMIT\0"
"""Part of the server's answer to COMMIT."""

_LOOK_SECONDS = 0.1
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class _Line:
    """A client's connection, and that to the server in its behalf."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.reset = False
        self.stalled_until = 0.0
        self.half_open_until = 0.0
        self.loses_server = False


class Proxy(Relay):
    """Passes on between clients and one server, each connection in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._lines: list[_Line] = []
        self._swallow: bytes | None = None
        self._swallowed = threading.Event()
        self._closed = False
        self._cut_until = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        super().__exit__(*error)

    def reset(self, pick: float) -> bool:
        """Reset a connection; False where there is none. ``pick`` in [0, 1) chooses."""
        line = self._pick(pick)
        if line is not None:
            line.reset = True
        return line is not None

    def stall(self, pick: float, seconds: float) -> bool:
        """Pass on nothing of a connection for that long."""
        line = self._pick(pick)
        if line is not None:
            line.stalled_until = time.monotonic() + seconds
        return line is not None

    def stall_all(self, seconds: float) -> None:
        """Pass on nothing of all connections there are; new ones are served."""
        for line in list(self._lines):
            line.stalled_until = time.monotonic() + seconds

    def half_open(self, pick: float, seconds: float) -> bool:
        """Break a connection on one side only; the other hears nothing for that long."""
        line = self._pick(pick)
        if line is not None:
            line.loses_server = int(pick * 1000) % 2 == 0
            line.half_open_until = time.monotonic() + seconds
        return line is not None

    def cut(self, seconds: float) -> bool:
        """Reset all connections, and refuse new ones for that long."""
        self._cut_until = time.monotonic() + seconds
        for line in list(self._lines):
            line.reset = True
        return True

    def lead_to(self, dsn: str) -> None:
        """Lead those who connect from now on to another server."""
        self._servers = [conninfo_to_dict(dsn)]

    def swallow(self, answer: bytes, within: float) -> bool:
        """Lose the next answer that has this in it, with its connection, once the server gave it.

        False where none came in ``within`` seconds.
        """
        self._swallowed.clear()
        self._swallow = answer
        met = self._swallowed.wait(within)
        self._swallow = None
        return met

    def swallows(self) -> bool:
        """Whether an answer is to be swallowed."""
        return self._swallow is not None

    def _pick(self, pick: float) -> _Line | None:
        lines = list(self._lines)
        return lines[int(pick * len(lines))] if lines else None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if self._cut_until > time.monotonic():
                client.close()
                continue
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        line = _Line(client)
        with client, suppress(OSError), self._connect(0) as server:
            self._lines.append(line)
            try:
                while not self._closed and self._pass(line, server):
                    pass
                if line.half_open_until:
                    (server if line.loses_server else client).close()
                while not self._closed and line.half_open_until > time.monotonic():
                    time.sleep(_LOOK_SECONDS)
            finally:
                self._lines.remove(line)
                if line.reset and client.fileno() >= 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)

    def _pass(self, line: _Line, server: socket.socket) -> bool:
        """Pass on what there is; False where the connection has ended, or is to."""
        if line.half_open_until:
            return False
        if line.stalled_until > time.monotonic():
            time.sleep(_LOOK_SECONDS)
            return not line.reset
        ready, _, _ = select.select([line.client, server], [], [], _LOOK_SECONDS)
        for source in ready:
            data = source.recv(65536)
            if line.reset or not data:
                return False
            wanted = self._swallow
            if source is server and wanted is not None and wanted in data:
                self._swallow = None
                self._swallowed.set()
                return False
            (line.client if source is server else server).sendall(data)
        return not line.reset
