"""A session of one's own over real TCP: both ends notice a peer that vanished without a word."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync.database.session import open_session, open_session_async
from tests.eventually import eventually
from tests.relay import Relay
from tests.tcp_server import TcpServer

linux = pytest.mark.skipif(sys.platform != "linux", reason="the options' numbers are Linux's")


@pytest.fixture(scope="module")
def tcp_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server that listens on TCP."""
    with TcpServer(tmp_path_factory.mktemp("tcp")) as server:
        yield server.dsn


def _server_half(dsn: str, opening: Callable[[str], Any]) -> dict[str, str]:
    """The line's settings as the server's kernel has them in force for a session."""
    names = ("idle", "interval", "count")
    found: dict[str, str] = {}
    with opening(dsn) as connection:
        for name in (*(f"tcp_keepalives_{name}" for name in names), "tcp_user_timeout"):
            found[name] = connection.execute(f"SHOW {name}").fetchone()[0]
    return found


def test_the_server_watches_the_line(tcp_dsn: str) -> None:
    assert _server_half(tcp_dsn, lambda dsn: open_session(dsn, "test")) == {
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }


def test_the_server_watches_the_line_of_an_asyncio_session(tcp_dsn: str) -> None:
    async def ask() -> tuple[Any, ...] | None:
        async with await open_session_async(tcp_dsn, "test") as connection:
            cursor = await connection.execute(
                "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_user_timeout')"
            )
            return await cursor.fetchone()

    assert asyncio.run(ask()) == ("10", "15000")


@linux
def test_the_client_watches_the_line(tcp_dsn: str) -> None:
    with open_session(tcp_dsn, "test") as connection:
        line = socket.socket(fileno=connection.fileno())
        try:
            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = [
                line.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            ]
        finally:
            line.detach()
    assert options == [10, 5, 3, 15000]


def test_a_unix_socket_bears_the_settings(server_dsn: str) -> None:
    with open_session(server_dsn, "test") as connection:
        assert connection.execute("SHOW idle_session_timeout").fetchone() == ("0",)


@linux
@pytest.mark.faults
def test_a_call_ends_when_its_statement_is_never_acknowledged(tcp_dsn: str) -> None:
    with Relay(tcp_dsn) as relay:
        connection = open_session(make_conninfo(relay.dsn, tcp_user_timeout=1500), "test")
        relay.vanish()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT")
        assert time.monotonic() - began < 10


@linux
@pytest.mark.faults
def test_a_call_ends_when_its_answer_never_comes(tcp_dsn: str) -> None:
    line = {"keepalives_idle": 1, "keepalives_interval": 1, "tcp_user_timeout": 2500}
    with Relay(tcp_dsn) as relay, psycopg.connect(tcp_dsn, autocommit=True) as watching:
        connection = open_session(make_conninfo(relay.dsn, **line), "test")
        taken = "SELECT pg_advisory_lock(8)"
        watching.execute(taken)
        waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'"

        def cut() -> None:
            eventually(lambda: watching.execute(waits).fetchone() is not None)
            relay.vanish()

        cutting = threading.Thread(target=cut)
        cutting.start()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            connection.execute(taken)
        assert time.monotonic() - began < 10
        cutting.join()


@linux
@pytest.mark.faults
def test_the_server_frees_a_lock_whose_client_vanished(tcp_dsn: str) -> None:
    take = "SELECT pg_try_advisory_lock(7)"
    with (
        Relay(tcp_dsn) as relay,
        psycopg.connect(tcp_dsn, autocommit=True) as other,
        open_session(relay.dsn, "test") as connection,
    ):
        assert connection.execute(take).fetchone() == (True,)
        relay.vanish()
        assert other.execute(take).fetchone() == (False,)
        eventually(lambda: other.execute(take).fetchone() == (True,), within=40)
