"""The two executors of calls: one blocks, one awaits. They decide nothing.

Both run on a pool of autocommit connections: a call is its own transaction, unless the caller
hands in a connection of theirs.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar, overload

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgsync.database.calls import Call, Copy, Listing, Row, Steps
from pgsync.database.drive import drive, drive_async
from pgsync.database.dsn import (
    connect,
    connect_async,
    connection_parameters,
    has_ended,
    masked,
)
from pgsync.database.faults import translated
from pgsync.database.forks import leave_connection, leave_to_parent, renew_after_fork
from pgsync.database.pooler import comes_through_pooler, comes_through_pooler_async
from pgsync.errors import coordinator_closed

__all__ = [
    "AsyncDatabase",
    "Database",
    "ask_async",
    "execute",
    "execute_async",
    "spare_prepared_statements",
]

C = TypeVar("C", psycopg.Connection[Row], psycopg.AsyncConnection[Row])
T = TypeVar("T")

_POOL_TIMEOUT = 30.0
_IDLE_SECONDS = 300.0
# The pool's pauses between tries double, to minutes: begun anew so often they stay at a second.
_RECONNECT_SECONDS = 2.0


@overload
def execute(connection: psycopg.Connection[Any], call: Call[T]) -> T: ...
@overload
def execute(connection: psycopg.Connection[Any], call: Listing[T]) -> list[T]: ...
@overload
def execute(connection: psycopg.Connection[Any], call: Copy) -> None: ...
def execute(
    connection: psycopg.Connection[Any], call: Call[T] | Listing[T] | Copy
) -> T | list[T] | None:
    """Run a call on this connection, in the transaction it is in."""
    with translated(), connection.cursor(row_factory=tuple_row) as cursor:
        if isinstance(call, Copy):
            with cursor.copy(call.statement) as stream:
                for piece in call.rows:
                    stream.write(piece)
            return None
        cursor.execute(call.statement, call.parameters, binary=_is_binary(call))
        return _read(call, cursor.fetchall())


@overload
async def execute_async(connection: psycopg.AsyncConnection[Any], call: Call[T]) -> T: ...
@overload
async def execute_async(connection: psycopg.AsyncConnection[Any], call: Listing[T]) -> list[T]: ...
@overload
async def execute_async(connection: psycopg.AsyncConnection[Any], call: Copy) -> None: ...
async def execute_async(
    connection: psycopg.AsyncConnection[Any], call: Call[T] | Listing[T] | Copy
) -> T | list[T] | None:
    """Run a call on this connection, in the transaction it is in."""
    with translated():
        async with connection.cursor(row_factory=tuple_row) as cursor:
            if isinstance(call, Copy):
                async with cursor.copy(call.statement) as stream:
                    for piece in call.rows:
                        await stream.write(piece)
                return None
            return await _ask_async(cursor, call)


@overload
async def ask_async(cursor: psycopg.AsyncCursor[Row], call: Call[T]) -> T: ...
@overload
async def ask_async(cursor: psycopg.AsyncCursor[Row], call: Listing[T]) -> list[T]: ...
async def ask_async(cursor: psycopg.AsyncCursor[Row], call: Call[T] | Listing[T]) -> T | list[T]:
    """As :func:`execute_async`, on a cursor that is kept, which spares the making of one.

    Several tasks may use it: nothing is awaited between an answer and its reading.
    """
    with translated():
        return await _ask_async(cursor, call)


async def _ask_async(cursor: psycopg.AsyncCursor[Row], call: Call[T] | Listing[T]) -> T | list[T]:
    await cursor.execute(call.statement, call.parameters, binary=_is_binary(call))
    return _read(call, await cursor.fetchall())


def _is_binary(call: Call[Any] | Listing[Any]) -> bool:
    return isinstance(call, Listing) and call.binary


def _read(call: Call[T] | Listing[T], rows: list[Row]) -> T | list[T]:
    if isinstance(call, Listing):
        return [call.read(row) for row in rows]
    return call.read(rows[0])


class _Pooled(Generic[C]):
    """What both pools share: how they are made, anew in a forked child too."""

    _pool: ConnectionPool[Any] | AsyncConnectionPool[Any]

    def __init__(
        self, dsn: str, *, size: int = 10, prepare: Callable[[], None] | None = None
    ) -> None:
        self.dsn = dsn
        self._size = size
        self._prepare = prepare
        self._closed = False
        self._begin()
        renew_after_fork(self, type(self)._begin_anew)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {masked(self.dsn)}>"

    def _begin(self) -> None:
        self._opened = False
        self._made: weakref.WeakSet[C] = weakref.WeakSet()

    def _begin_anew(self) -> None:
        leave_to_parent(self._pool)
        for connection in list(self._made):
            leave_connection(connection)
        self._begin()

    def _pool_options(self) -> dict[str, Any]:
        return {
            "kwargs": {**connection_parameters(self.dsn), "autocommit": True},
            "min_size": 0,
            "max_size": self._size,
            "max_idle": _IDLE_SECONDS,
            "timeout": _POOL_TIMEOUT,
            "reconnect_timeout": _RECONNECT_SECONDS,
            "open": False,
        }

    def _refuse_closed(self) -> None:
        if self._closed:
            raise coordinator_closed()


class Database(_Pooled[psycopg.Connection[Row]]):
    """A pool of connections that blocks while it waits.

    ``prepare`` is called once before the first use, to check the server and its schema.
    """

    _pool: ConnectionPool[psycopg.Connection[Row]]

    @contextmanager
    def connection(self, patience: float | None = None) -> Iterator[psycopg.Connection[Row]]:
        """An autocommit connection of the pool.

        Raises:
            ConnectionFailed: if none becomes free in ``patience`` seconds, 30 by default.
        """
        self._open()
        pool = self._pool
        with translated():
            until = time.monotonic() + (_POOL_TIMEOUT if patience is None else patience)
            # Not by the pool's own check: after each that has ended it sleeps, for twice as long.
            while has_ended(connection := pool.getconn(until - time.monotonic())):
                pool.putconn(connection)
        try:
            yield connection
        finally:
            if pool is self._pool:  # Else the caller forked meanwhile, and this is the child.
                pool.putconn(connection)

    def connect(self) -> psycopg.Connection[Row]:
        """A connection as the pool's, which the caller keeps and closes.

        Raises:
            ConnectionFailed: if no server answers, or it refuses this user.
        """
        self._open()
        connection = connect(self.dsn)
        self._configure(connection)
        return connection

    @overload
    def run(self, call: Call[T], patience: float | None = None) -> T: ...
    @overload
    def run(self, call: Listing[T], patience: float | None = None) -> list[T]: ...
    def run(self, call: Call[T] | Listing[T], patience: float | None = None) -> T | list[T]:
        """Run one call in a transaction of its own and return what it reads."""
        with self.connection(patience) as connection:
            return execute(connection, call)

    def drive(self, steps: Steps[T]) -> T:
        """Drive a plan to its end and return its result."""
        return drive(steps, self.run)

    def close(self) -> None:
        """Close all connections; the pool cannot be used again."""
        with self._opening:
            self._closed = True
            self._pool.close()

    def _begin(self) -> None:
        super()._begin()
        self._opening = threading.Lock()
        self._pool = ConnectionPool(
            **self._pool_options(),
            configure=self._configure,
            reconnect_failed=_try_again,
            name="pgsync",
        )

    def _configure(self, connection: psycopg.Connection[Row]) -> None:
        self._made.add(connection)
        spare_prepared_statements(connection)

    def _open(self) -> None:
        if self._opened and not self._closed:
            return
        with self._opening:
            self._refuse_closed()
            if not self._opened:
                if self._prepare:
                    self._prepare()
                self._pool.open()
                self._opened = True


class AsyncDatabase(_Pooled[psycopg.AsyncConnection[Row]]):
    """As :class:`Database`, awaited; it belongs to the event loop that first uses it."""

    _pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]]

    @asynccontextmanager
    async def connection(
        self, patience: float | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """An autocommit connection of the pool.

        Raises:
            ConnectionFailed: if none becomes free in ``patience`` seconds, 30 by default.
        """
        await self._open()
        pool = self._pool
        with translated():
            until = time.monotonic() + (_POOL_TIMEOUT if patience is None else patience)
            while has_ended(connection := await pool.getconn(until - time.monotonic())):
                await pool.putconn(connection)
        try:
            yield connection
        finally:
            if pool is self._pool:  # Else the caller forked meanwhile, and this is the child.
                await pool.putconn(connection)

    async def connect(self) -> psycopg.AsyncConnection[Row]:
        """As :meth:`Database.connect`."""
        await self._open()
        connection = await connect_async(self.dsn)
        await self._configure(connection)
        return connection

    @overload
    async def run(self, call: Call[T], patience: float | None = None) -> T: ...
    @overload
    async def run(self, call: Listing[T], patience: float | None = None) -> list[T]: ...
    async def run(self, call: Call[T] | Listing[T], patience: float | None = None) -> T | list[T]:
        """Run one call in a transaction of its own and return what it reads."""
        async with self.connection(patience) as connection:
            return await execute_async(connection, call)

    async def drive(self, steps: Steps[T]) -> T:
        """Drive a plan to its end and return its result."""
        return await drive_async(steps, self.run)

    async def close(self) -> None:
        """Close all connections; the pool cannot be used again."""
        async with self._opening:
            self._closed = True
            await self._pool.close()

    def _begin(self) -> None:
        super()._begin()
        self._opening = asyncio.Lock()
        self._pool = AsyncConnectionPool(
            **self._pool_options(),
            configure=self._configure,
            reconnect_failed=_try_again_async,
            name="pgsync-async",
        )

    async def _configure(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._made.add(connection)
        if await comes_through_pooler_async(connection):
            connection.prepare_threshold = None

    async def _open(self) -> None:
        if self._opened and not self._closed:
            return
        async with self._opening:
            self._refuse_closed()
            if not self._opened:
                if self._prepare:
                    await asyncio.to_thread(self._prepare)
                await self._pool.open()
                self._opened = True


def spare_prepared_statements(connection: psycopg.Connection[Any]) -> None:
    """Prepare nothing on an autocommit connection that comes through a pooler.

    In transaction mode the next statement may run in another session, where what was prepared in
    the last one is missing, or taken.
    """
    if comes_through_pooler(connection):
        connection.prepare_threshold = None


def _try_again(pool: ConnectionPool[Any]) -> None:
    """Go on where somebody waits for a connection; else whoever comes next begins."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()  # It has none to check, and makes one.


async def _try_again_async(pool: AsyncConnectionPool[Any]) -> None:
    if pool.get_stats().get("requests_waiting"):
        await pool.check()
