"""Sessions of one's own: connections whose server session lives, and ends, with them.

Locks, a worker's life and LISTEN need one. Both ends watch the line: a peer that vanished without a
word is noticed by keepalives while the session idles, and by ``tcp_user_timeout`` where its last
message was never acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from pgsync.database.calls import Call, nothing
from pgsync.database.dsn import connect, connect_async
from pgsync.database.pool import execute, execute_async
from pgsync.database.pooler import refuse_transaction_pooler, refuse_transaction_pooler_async

__all__ = ["answering_within", "hang_up", "open_session", "open_session_async", "session_settings"]

_OPENED_WITHIN = 10.0


def session_settings() -> Call[None]:
    """The server's half of watching the line, and leave to idle for as long as it takes.

    A server that runs these notices a vanished client within 25 seconds. On a Unix socket, whose
    peer cannot vanish, the ``tcp_`` settings do nothing.
    """
    return Call(
        "SELECT set_config('tcp_keepalives_idle', '10', false),"
        " set_config('tcp_keepalives_interval', '5', false),"
        " set_config('tcp_keepalives_count', '3', false),"
        " set_config('tcp_user_timeout', '15000', false),"
        " set_config('idle_session_timeout', '0', false)",
        {},
        nothing,
    )


def open_session(dsn: str, application_name: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Open an autocommit connection whose server session is its own.

    Raises:
        InvalidArgument: if the DSN cannot be read.
        ConnectionFailed: if no server answers, or it refuses this user.
        PoolerDetected: if a pooler stands before the server that shares its sessions.
    """
    connection = connect(dsn, application_name)
    try:
        refuse_transaction_pooler(connection, dsn)
        execute(connection, session_settings())
    except BaseException:
        connection.close()
        raise
    return connection


async def open_session_async(
    dsn: str, application_name: str
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """As :func:`open_session`."""
    connection = await connect_async(dsn, application_name)
    try:
        with answering_within(connection, _OPENED_WITHIN):
            await refuse_transaction_pooler_async(connection, dsn)
            await execute_async(connection, session_settings())
    except BaseException:
        await connection.close()
        raise
    return connection


@contextmanager
def answering_within(connection: psycopg.AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Hang up on a server that has not answered all that is asked in the ``with`` by then.

    Behind a proxy that lives the server may vanish, and no keepalive tells.
    """
    late = asyncio.get_running_loop().call_later(seconds, hang_up, connection)
    try:
        yield
    finally:
        late.cancel()


def hang_up(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Have whoever waits for an answer, in a thread or a task, hear that the connection is lost.

    To cancel the task would not do: psycopg then waits for the server's answer to that.
    """
    # A copy of the descriptor: libpq keeps its own, and reads the end of the stream.
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)
