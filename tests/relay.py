"""A TCP address that leads to servers in turn, and can fall silent, lose answers, and be late."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

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
        self._loses_answer = False
        self._keeps_request = self._cuts_request = self._refuses = False
        self._kept: tuple[socket.socket, bytes] | None = None

    def __enter__(self) -> Relay:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._run(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
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
        # What hangs on the way is left as soon as pgsync does so of itself.
        given.pop("connect_timeout", None)
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

    def lose_next_answer(self) -> None:
        """Break the connection whose server answers next, without passing the answer on."""
        self._loses_answer = True

    def keep_next_request(self) -> None:
        """Break the connection of the client that asks next, but only towards the client."""
        self._keeps_request = True

    def cut_after_next_request(self) -> None:
        """Break the connection of the client that asks next, when the server has the request."""
        self._cuts_request = True

    def refuse_after_next_answer(self) -> None:
        """As :meth:`lose_next_answer`, and take no more clients."""
        self._refuses = self._loses_answer = True

    def deliver_kept_request(self) -> None:
        """Send the server what was kept, and no answer to anybody."""
        assert self._kept is not None
        server, request = self._kept
        server.sendall(request)

    def _accept(self) -> None:
        for turn in range(1_000_000):
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = self._connect(turn % len(self._servers))
            self._sockets += [client, server]
            self._run(self._pass_requests, client, server)
            self._run(self._pass_answers, server, client)

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

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._keeps_request:
                    self._keeps_request = False
                    self._kept = (server, data)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)
                if self._cuts_request:
                    self._cuts_request = False
                    break
        _shut(client, server)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self._loses_answer:
                    self._loses_answer = False
                    if self._refuses:
                        _shut(self._listening)
                    break
                client.sendall(data)
        _shut(client, server)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
