"""A socket that greets as an old PostgreSQL does: no such server can be installed here."""

from __future__ import annotations

import socket
import struct
import threading


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


class OldServer:
    """Accepts connections, says its version, and is ready for queries that never come."""

    def __init__(self, version: str) -> None:
        status = {"server_version": version, "client_encoding": "UTF8"}
        self._greeting = (
            _message(b"R", struct.pack("!I", 0))
            + b"".join(
                _message(b"S", f"{name}\0{value}\0".encode()) for name, value in status.items()
            )
            + _message(b"Z", b"I")
        )

    def __enter__(self) -> OldServer:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.dsn = f"postgresql://u@127.0.0.1:{self._listening.getsockname()[1]}/x?sslmode=disable"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                if connection.recv(4096):
                    connection.sendall(self._greeting)
                    while connection.recv(4096):
                        pass
