"""Telling whether a connection comes through a pooler, and whether that shares its sessions.

A session lock, LISTEN, or a worker's life needs a server session of its own. A pooler in session
mode gives each client one; in transaction or statement mode it hands the session, with the lock, to
whoever comes next, and says nothing about it.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import ExitStack
from typing import Any, LiteralString

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgsync.database.dsn import connect, masked
from pgsync.database.faults import translated
from pgsync.errors import ConnectionFailed, PoolerDetected

__all__ = [
    "comes_through_pooler",
    "comes_through_pooler_async",
    "refuse_transaction_pooler",
    "refuse_transaction_pooler_async",
]

# A pooler may be several processes behind one address, each with sessions of its own: two of seven
# clients meet in one process where there are six or fewer.
_CLIENTS = 7
_PATIENCE = 5.0
_TRUSTED_SECONDS = 60.0
_ASK: LiteralString = "SELECT pg_backend_pid()"

_accepted: dict[str, float] = {}
"""DSNs whose pooler gave every client a session of its own, and until when that is believed."""


def comes_through_pooler(connection: psycopg.Connection[Any]) -> bool:
    """Whether something stands between this connection and the server. One trip.

    A server greets with its process's id as the key for cancelling; a pooler, whose sessions come
    later, greets with a number of its own.
    """
    row = connection.execute(_ASK).fetchone()
    return row is None or row[0] != connection.info.backend_pid


async def comes_through_pooler_async(connection: psycopg.AsyncConnection[Any]) -> bool:
    """As :func:`comes_through_pooler`."""
    row = await (await connection.execute(_ASK)).fetchone()
    return row is None or row[0] != connection.info.backend_pid


def refuse_transaction_pooler(connection: psycopg.Connection[Any], dsn: str) -> None:
    """Refuse an autocommit connection to ``dsn`` whose server session is not its own.

    One trip where it leads straight to the server. Behind a pooler seven more connections are
    opened and closed again, within ten seconds; that they were well served is believed for a
    minute. Close the connection after an error: its question may be under way still.

    Raises:
        PoolerDetected: if clients are seen to share a session, or that cannot be told.
        ConnectionFailed: if no answer comes in five seconds.
        OutcomeUnknown: if the connection breaks meanwhile.
    """
    with translated():
        try:
            session = _session_of(connection.pgconn, time.monotonic() + _PATIENCE)
        except TimeoutError:
            raise _silent(dsn) from None
        if session != connection.info.backend_pid:
            _refuse_shared_sessions(dsn)


async def refuse_transaction_pooler_async(
    connection: psycopg.AsyncConnection[Any], dsn: str
) -> None:
    """As :func:`refuse_transaction_pooler`."""
    with translated():
        try:
            async with asyncio.timeout(_PATIENCE):
                pooled = await comes_through_pooler_async(connection)
        except TimeoutError:
            raise _silent(dsn) from None
        if pooled:
            await asyncio.to_thread(_refuse_shared_sessions, dsn)


def _refuse_shared_sessions(dsn: str) -> None:
    """Be several clients of the pooler at once, and see whether two of them get one session."""
    if time.monotonic() < _accepted.get(dsn, 0.0):
        return
    until = time.monotonic() + _PATIENCE
    clients: list[pq.abc.PGconn] = []
    sessions: list[int] = []
    with ExitStack() as stack:
        try:
            while len(clients) < _CLIENTS and len(set(sessions)) == len(sessions):
                clients.append(_new_client(dsn, until, stack))
                sessions.append(_session_of(clients[-1], until))
            # In reverse, since a pooler that gives its sessions out in turn might otherwise give
            # everybody the same one as before.
            again = [_session_of(client, until) for client in reversed(clients)]
        except TimeoutError:
            raise _inconclusive(
                dsn, f"it gave no session in {_PATIENCE:g} seconds (is its pool used up?)"
            ) from None
        except (ConnectionFailed, psycopg.OperationalError) as error:
            raise _inconclusive(dsn, str(error).strip()) from None
    if len(set(sessions)) < len(sessions) or again[::-1] != sessions:
        raise PoolerDetected(
            masked(dsn),
            "shares server sessions between its clients (transaction or statement mode)",
        )
    _accepted[dsn] = time.monotonic() + _TRUSTED_SECONDS


def _silent(dsn: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"{masked(dsn)!r} accepted a connection, but did not answer in {_PATIENCE:g} seconds: is "
        "the server overloaded, or a pooler's pool used up?"
    )


def _inconclusive(dsn: str, reason: str) -> PoolerDetected:
    return PoolerDetected(
        masked(dsn), f"could not be shown to give each client a session of its own ({reason})"
    )


def _new_client(dsn: str, until: float, stack: ExitStack) -> pq.abc.PGconn:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    # Whole seconds, and two at least, are all that libpq knows.
    bounded = make_conninfo(dsn, connect_timeout=max(2, round(left)))
    connection = connect(bounded, "pgsync pooler check")
    stack.callback(connection.close)
    return connection.pgconn


def _session_of(pgconn: pq.abc.PGconn, until: float) -> int:
    """The server process that answers now. psycopg's own ``execute`` would wait for ever."""
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        pgconn.send_query(_ASK.encode())
        pgconn.flush()
        answers: list[pq.abc.PGresult] = []
        while True:
            while pgconn.is_busy():
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                pgconn.consume_input()
            answer = pgconn.get_result()
            if answer is None:
                break
            answers.append(answer)
    value = answers[0].get_value(0, 0) if answers else None
    if value is None:
        raise psycopg.OperationalError(pgconn.get_error_message() or "the connection broke")
    return int(value)
