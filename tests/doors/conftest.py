"""What the tests of doors share."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import uvicorn

from pgsync import Coordinator
from pgsync.doors.limits import PostgresStorage
from tests.kernel.conftest import Clock

__all__ = ["STORAGE_TABLES", "Clock"]

STORAGE_TABLES = (
    "pgsync.limits_storage_counter",
    "pgsync.limits_storage_sliding",
    "pgsync.limits_storage_moving",
    "pgsync.limits_storage_entry",
)


@pytest.fixture
def clock(database: psycopg.Connection[Any]) -> Clock:
    """Time that the test sets."""
    return Clock(database)


@pytest.fixture
def storage(sync: Coordinator) -> PostgresStorage:
    """The blocking storage for the library limits."""
    return PostgresStorage(coordinator=sync)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serves ASGI apps on free ports of the loopback interface; answers with the URL of each."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(app: Any) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(30)
