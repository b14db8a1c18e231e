"""A worker's session: its life as the database sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, overload

import psycopg
from psycopg.rows import tuple_row

from pgsync.daemon.vitals import HEARD_WITHIN
from pgsync.database.calls import Call, Listing
from pgsync.database.pool import ask_async, execute_async
from pgsync.database.session import answering_within, hang_up, open_session_async
from pgsync.errors import ConnectionFailed, LockCapacityError, OutcomeUnknown, PgsyncError
from pgsync.pauses import Pauses
from pgsync.queues.work import (
    change_worker,
    read_jobs,
    register_worker,
    rescue_jobs,
    unregister_worker,
)
from pgsync.version import __version__

__all__ = ["SILENCE", "WorkerLink"]

T = TypeVar("T")

logger = logging.getLogger("pgsync.worker")

SILENCE = timedelta(seconds=60)
"""A worker whose heartbeat is older than this is given up for dead."""

_LONGEST_SILENCE, _LOOK_SECONDS = SILENCE.total_seconds(), 5.0


class WorkerLink:
    """One session, registered as a worker; connects anew, as a new worker, when it breaks.

    Once ``stopping`` is set it no longer waits for a database that is away.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        queues: Sequence[str],
        concurrency: int,
        stopping: asyncio.Event,
        kinds: Sequence[str] = ("worker",),
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._queues = queues
        self._concurrency = concurrency
        self._stopping = stopping
        self._kinds = kinds
        self._heard_at = time.monotonic()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._cursor: psycopg.AsyncCursor[Any] | None = None
        self._connecting = asyncio.Lock()
        self._beside: psycopg.AsyncConnection[Any] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.worker = 0

    @property
    def unready(self) -> str | None:
        """Why nothing can be done with it now; None where something can."""
        if self._stopping.is_set():
            return "it is told to stop"
        if self._connection is None or self._connection.closed:
            return "it has no connection to the database"
        silence = time.monotonic() - self._heard_at
        if silence > HEARD_WITHIN:
            return f"it has not heard of the database for {silence:.0f} s"
        return None

    async def open(self) -> None:
        """Connect and register, trying again with backoff while the database is away."""
        await self._reconnect(None)
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> int:
        """Unregister; returns how many jobs went back unspent."""
        if self._watching is not None:
            self._watching.cancel()
        if self._beside is not None:
            await self._beside.close()
        connection, self._connection = self._connection, None
        if connection is None:
            return 0
        async with connection:
            return await execute_async(connection, unregister_worker(self.worker))

    @overload
    async def run(self, call: Call[T]) -> T: ...
    @overload
    async def run(self, call: Listing[T]) -> list[T]: ...
    async def run(self, call: Call[T] | Listing[T]) -> T | list[T]:
        """Run a call, once more on a new session where the old one broke.

        Every call of a worker bears that: a repeated completion finds its job gone.
        """
        while True:
            connection, cursor = self._connection, self._cursor
            if connection is None or cursor is None:
                raise ConnectionFailed("the worker has stopped")
            try:
                answer = await ask_async(cursor, call)
                self._heard_at = time.monotonic()
                return answer
            except OutcomeUnknown as error:
                logger.warning("worker %s lost its session: %s", self.worker, error)
                await self._reconnect(connection)

    async def run_beside(self, call: Call[T]) -> T:
        """As :meth:`run`, beside what it runs: on a second session, opened at its first use."""
        if self._beside is None:
            try:
                self._beside = await open_session_async(self._dsn, "pgsync worker records")
            except (psycopg.OperationalError, PgsyncError):
                return await self.run(call)  # No room for it, or the database is away.
        try:
            with answering_within(self._beside, _LONGEST_SILENCE):
                return await execute_async(self._beside, call)
        except OutcomeUnknown:
            broken, self._beside = self._beside, None
            await broken.close()
            return await self.run(call)

    async def change(self, queues: Sequence[str], concurrency: int) -> None:
        """Note that the worker claims from other queues now, or runs more or fewer jobs."""
        self._queues, self._concurrency = queues, concurrency
        await self.run(change_worker(self.worker, queues, concurrency))

    async def register_again(self) -> None:
        """Become a new worker: the old one was given up for dead."""
        await self._reconnect(self._connection)

    async def _watch(self) -> None:
        """Hang up on a server that does not answer heartbeats, for so long as it bears silence."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            silence = time.monotonic() - self._heard_at
            if self._connection is not None and silence > _LONGEST_SILENCE:
                hang_up(self._connection)

    async def _reconnect(self, broken: psycopg.AsyncConnection[Any] | None) -> None:
        async with self._connecting:
            if self._connection is not broken:
                return  # Somebody else has done it.
            if broken is not None:
                await broken.close()
            for pause in Pauses(0.1, 3.0):
                try:
                    await self._connect()
                    return
                except (psycopg.OperationalError, PgsyncError) as error:
                    # A first connect that the server refuses for good must not try for ever.
                    for_now = (psycopg.Error, ConnectionFailed, LockCapacityError, OutcomeUnknown)
                    if broken is None and not isinstance(error, for_now):
                        raise
                    if self._stopping.is_set():
                        raise ConnectionFailed(f"the worker stops: {error}") from error
                    logger.warning("worker cannot connect, trying again: %s", error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def _connect(self) -> None:
        connection = await open_session_async(self._dsn, "pgsync worker")
        try:
            self.worker = await execute_async(
                connection,
                register_worker(
                    self._name,
                    socket.gethostname(),
                    os.getpid(),
                    __version__,
                    self._queues,
                    self._concurrency,
                    self._kinds,
                ),
            )
            # What a dead worker had, an earlier self of this one included, can be claimed at once.
            await execute_async(connection, rescue_jobs(SILENCE))
            read_jobs(connection)
        except BaseException:
            await connection.close()
            raise
        self._heard_at = time.monotonic()
        self._connection, self._cursor = connection, connection.cursor(row_factory=tuple_row)
