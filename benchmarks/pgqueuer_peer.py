"""PgQueuer as its documentation runs it: asyncpg, uvloop, coroutine handlers, large batches."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.frame import Run

__all__ = ["PgQueuer", "missing_for_pgqueuer"]

T = TypeVar("T")

_DATABASE = "bench_pgqueuer"
_BATCH = 100  # the best of 10, 100 and 1,000 for it
_CHUNK = 1_000
_ARGS = b'{"n": 1}'


def missing_for_pgqueuer() -> str | None:
    """What has to be installed for it; None where it is all there."""
    for library in ("pgqueuer", "asyncpg", "uvloop"):
        if importlib.util.find_spec(library) is None:
            return f"PgQueuer: the library {library} is not installed; use the extra bench"
    return None


class PgQueuer:
    """Its queue, in a database of its own on the same server."""

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            name = sql.Identifier(_DATABASE)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        given = conninfo_to_dict(make_conninfo(dsn, dbname=_DATABASE))
        names = {"host": "host", "port": "port", "user": "user", "password": "password"}
        self._parameters = {to: given[name] for name, to in names.items() if name in given}
        self._parameters["database"] = _DATABASE
        self._run(self._install())

    def enqueue_one_by_one(self, count: int) -> int:
        """Each job with a commit of its own."""

        async def enqueue() -> int:
            queries, connection = await self._open()
            for _ in range(count):
                await queries.enqueue("noop", _ARGS)
            await connection.close()
            return count

        return self._run(enqueue())

    def enqueue_many(self, count: int) -> int:
        """Jobs in its bulk call."""

        async def enqueue() -> int:
            queries, connection = await self._open()
            for first in range(0, count, _CHUNK):
                size = min(_CHUNK, count - first)
                await queries.enqueue(["noop"] * size, [_ARGS] * size, [0] * size)
            await connection.close()
            return count

        return self._run(enqueue())

    def drain(self, count: int) -> Run:
        """Work off ``count`` jobs; their enqueuing is not timed."""
        self.refill(count)
        return Run(count, self._run(self._work(count)))

    def refill(self, count: int) -> None:
        """Have just so many jobs in its queue."""
        self._run(self._clear())
        self.enqueue_many(count)

    def work_beside(self, done: Any, mine: int) -> tuple[float, float, int]:
        """Work off jobs beside other processes, until together they have done them all.

        ``done`` is shared: how many each has done, and last how many there are. Returns when this
        one began, when its last job had ended, and how many it had.
        """
        return self._run(self._work_beside(done, mine))

    async def _work_beside(self, done: Any, mine: int) -> tuple[float, float, int]:
        from pgqueuer.qm import QueueManager

        queries, connection = await self._open()
        manager = QueueManager(queries)
        last = began = time.monotonic()

        @manager.entrypoint("noop")
        async def noop(_job: Any) -> None:
            nonlocal last
            done[mine] += 1
            last = time.monotonic()

        async def watch() -> None:
            while sum(done[:-1]) < done[-1]:  # noqa: ASYNC110 - set by another process
                await asyncio.sleep(0.01)
            manager.shutdown.set()

        watching = asyncio.create_task(watch())
        await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=_BATCH)
        await watching
        await connection.close()
        return began, last, done[mine]

    async def _work(self, count: int) -> float:
        from pgqueuer.qm import QueueManager

        queries, connection = await self._open()
        manager, done = QueueManager(queries), 0

        @manager.entrypoint("noop")
        async def noop(_job: Any) -> None:
            nonlocal done
            done += 1
            if done == count:
                manager.shutdown.set()

        began = time.perf_counter()
        await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=_BATCH)
        took = time.perf_counter() - began
        await connection.close()
        return took

    async def _install(self) -> None:
        queries, connection = await self._open()
        await queries.install()
        await connection.close()

    async def _clear(self) -> None:
        queries, connection = await self._open()
        await queries.clear_queue()
        await connection.close()

    async def _open(self) -> tuple[Any, Any]:
        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(**self._parameters)
        return Queries(AsyncpgDriver(connection)), connection

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
