"""A TCP address that leads to servers in turn, and can fall silent without a word."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from psycopg.conninfo import conninfo_to_dict, make_conninfo

__all__ = ["Relay"]

_SO_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of the socket filter: keep 0 bytes


class Relay:
    """Relays between its clients and the servers of ``dsns``, each client to the next server."""

    def __init__(self, *dsns: str) -> None:
        self._servers = [conninfo_to_dict(dsn) for dsn in dsns]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._run(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for one in (self._listening, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    @property
    def dsn(self) -> str:
        """The way through it, with the first server's user and database."""
        host, port = self._listening.getsockname()
        given = {name: str(value) for name, value in self._servers[0].items()}
        return make_conninfo(**{**given, "host": host, "port": port, "sslmode": "disable"})

    def vanish(self) -> None:
        """Take no more packet of any peer, nor acknowledge one: the cable is cut."""
        for one in self._sockets:
            if one.family == socket.AF_INET:
                program = ctypes.create_string_buffer(_DROP_ALL)
                one.setsockopt(
                    socket.SOL_SOCKET,
                    _SO_ATTACH_FILTER,
                    struct.pack("HL", 1, ctypes.addressof(program)),
                )

    def _accept(self) -> None:
        for turn in range(1_000_000):
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = self._connect(turn % len(self._servers))
            self._sockets += [client, server]
            self._run(self._pass_on, client, server)
            self._run(self._pass_on, server, client)

    def _connect(self, number: int) -> socket.socket:
        server = self._servers[number]
        host, port = str(server["host"]), str(server["port"])
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection

    def _run(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
