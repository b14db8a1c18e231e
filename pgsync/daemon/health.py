"""The daemon's small web server: ``/livez``, ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import psycopg

from pgsync.daemon.metrics import (
    CONTENT_TYPE,
    Sample,
    check_metrics,
    read_metrics,
    render_metrics,
)
from pgsync.daemon.vitals import Vitals
from pgsync.database.dsn import connect
from pgsync.database.pool import execute
from pgsync.errors import InvalidArgument, PgsyncError

__all__ = ["HealthServer"]

logger = logging.getLogger("pgsync.health")

_ALIVE_WITHIN = 60.0
# Whoever asks more often is told the same again: metrics must not hurt the database.
_FRESH_SECONDS = 1.0
_TEXT = "text/plain; charset=utf-8"


class HealthServer:
    """Answers while it is entered, in threads of its own, whatever the event loop does.

    ``dsn`` leads to the database, ``vitals`` tells how the process is, and ``silence`` for how many
    seconds its event loop has done nothing.
    """

    def __init__(
        self,
        host: str,
        port: int,
        dsn: str,
        vitals: Callable[[], Vitals],
        silence: Callable[[], float],
    ) -> None:
        self._dsn = dsn
        self._vitals = vitals
        self._silence = silence
        self._asking = threading.Lock()
        self._read_at = float("-inf")
        self._samples: list[Sample] | None = None
        self._pages = {
            "/livez": self._live,
            "/healthz": self._live,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }
        try:
            self._server = _Server((host, port), _handler(self.answer))
        except OSError as error:
            raise InvalidArgument(
                f"the health port {host}:{port} cannot be used ({error.strerror or error}); "
                "choose another with --health-port"
            ) from error
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> HealthServer:
        threading.Thread(
            target=self._server.serve_forever, name="pgsync-health", daemon=True
        ).start()
        logger.info("health and metrics on port %s", self.port)
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a page."""
        page = self._pages.get(path.partition("?")[0])
        if page is None:
            return 404, _TEXT, f"one of {', '.join(self._pages)}\n".encode()
        return page()

    def _live(self) -> tuple[int, str, bytes]:
        """Never touches the database: a process is no better for a restart while that is away."""
        silence = self._silence()
        if silence > _ALIVE_WITHIN:
            return 503, _TEXT, f"the event loop has stood still for {silence:.0f} s\n".encode()
        return 200, _TEXT, b"ok\n"

    def _ready(self) -> tuple[int, str, bytes]:
        unready = self._vitals().unready
        if unready is None:
            try:
                with self._session() as connection:
                    connection.execute("SELECT 1")
            except (psycopg.Error, PgsyncError) as error:
                unready = f"the database does not answer ({type(error).__name__})"
        if unready is not None:
            return 503, _TEXT, f"not ready: {unready}\n".encode()
        return 200, _TEXT, b"ok\n"

    def _metrics(self) -> tuple[int, str, bytes]:
        try:
            check_metrics()
        except InvalidArgument as error:
            return 501, _TEXT, f"{error}\n".encode()
        with self._asking:
            if time.monotonic() - self._read_at > _FRESH_SECONDS:
                self._samples = self._read()
                self._read_at = time.monotonic()
            return 200, CONTENT_TYPE, render_metrics(self._samples, self._vitals())

    def _read(self) -> list[Sample] | None:
        try:
            with self._session() as connection:
                return execute(connection, read_metrics())
        except (psycopg.Error, PgsyncError) as error:
            logger.warning("metrics of the database could not be read: %s", error)
            return None

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        with connect(self._dsn, "pgsync health") as connection:
            connection.execute("SELECT set_config('statement_timeout', '2s', false)")
            yield connection


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service what this host is called."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever asked has hung up."""


def _handler(answer: Callable[[str], tuple[int, str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds for a request; then the line is closed
        server_version, sys_version = "pgsync", ""

        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - as http.server names it

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: it is asked every few seconds."""

    return Handler
