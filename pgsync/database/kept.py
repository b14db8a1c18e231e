"""A connection beside the pool that stays open between the calls of one caller at a time.

Taking a connection out of the pool and giving it back costs a fifth of a small commit.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Generic, TypeVar, overload

import psycopg

from pgsync.database.calls import Call, Prepared
from pgsync.database.dsn import has_ended
from pgsync.database.forks import leave_connection, renew_after_fork
from pgsync.database.pool import AsyncDatabase, Database, execute, execute_async
from pgsync.database.prepared import AsyncPreparedStatements, PreparedStatements
from pgsync.database.session import hang_up
from pgsync.errors import OutcomeUnknown

__all__ = ["AsyncKeptConnection", "KeptConnection"]

C = TypeVar("C", psycopg.Connection[Any], psycopg.AsyncConnection[Any])
T = TypeVar("T")

_PATIENCE = 10.0


class _Kept(Generic[C]):
    _statements: PreparedStatements | AsyncPreparedStatements

    def __init__(self) -> None:
        self._connection: C | None = None
        renew_after_fork(self, type(self)._leave)

    def __del__(self) -> None:
        self._drop()  # A coordinator that was never closed.

    def holds(self) -> bool:
        """Whether the connection is there, as far as this end has heard. No trip."""
        if self._connection is None:
            return False
        closed = self._connection.closed
        if closed or (self._statements.heard() and has_ended(self._connection)):
            self._drop()
            return False
        return True

    def cut(self) -> None:
        """Have the call that is under way fail, from outside: the server has not answered it."""
        connection = self._connection
        if connection is not None:
            hang_up(connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    def _leave(self) -> None:
        """In a forked child: the connection is the parent's."""
        if self._connection is not None:
            leave_connection(self._connection)
            self._connection = None


class KeptConnection(_Kept[psycopg.Connection[Any]]):
    """The blocking kind. Its calls must not overlap."""

    _statements: PreparedStatements

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._turn = threading.Lock()

    @overload
    def run(self, call: Call[T]) -> T: ...
    @overload
    def run(self, call: Prepared[T]) -> T | None: ...
    def run(self, call: Call[T] | Prepared[T]) -> T | None:
        """Run a call in a transaction of its own, on a new connection where there is none.

        Raises:
            ConnectionFailed: if none can be opened.
            OutcomeUnknown: if it broke before the answer came.
        """
        with self._turn:
            if self._connection is None:
                connection = self._database.connect()
                self._statements = PreparedStatements(connection)
                self._connection = connection
            try:
                if isinstance(call, Prepared):
                    return self._statements.ask(call)
                return execute(self._connection, call)
            except BaseException as error:
                if isinstance(call, Prepared) or isinstance(error, OutcomeUnknown):
                    self._drop()
                raise

    def close(self) -> None:
        """Close the connection, after the call that is under way; give that ten seconds."""
        # libpq crashes the process where one thread frees what another works on.
        if self._turn.acquire(timeout=_PATIENCE):
            self._drop()
            self._turn.release()

    def _leave(self) -> None:
        self._turn = threading.Lock()
        super()._leave()


class AsyncKeptConnection(_Kept[psycopg.AsyncConnection[Any]]):
    """As :class:`KeptConnection`, awaited."""

    _statements: AsyncPreparedStatements

    def __init__(self, database: AsyncDatabase) -> None:
        super().__init__()
        self._database = database
        self._turn = asyncio.Lock()

    @overload
    async def run(self, call: Call[T]) -> T: ...
    @overload
    async def run(self, call: Prepared[T]) -> T | None: ...
    async def run(self, call: Call[T] | Prepared[T]) -> T | None:
        """As :meth:`KeptConnection.run`."""
        async with self._turn:
            if self._connection is None:
                connection = await self._database.connect()
                self._statements = AsyncPreparedStatements(connection)
                self._connection = connection
            try:
                if isinstance(call, Prepared):
                    return await self._statements.ask(call)
                return await execute_async(self._connection, call)
            except BaseException as error:
                if isinstance(call, Prepared) or isinstance(error, OutcomeUnknown):
                    self._drop()
                raise

    async def close(self) -> None:
        """As :meth:`KeptConnection.close`."""
        async with asyncio.timeout(_PATIENCE), self._turn:
            self._drop()
