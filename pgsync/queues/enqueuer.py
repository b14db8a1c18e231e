"""Enqueuing on pgsync's own connections or the caller's: what all ways to enqueue go through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgsync.database.combining import AsyncCombiner, Combiner
from pgsync.database.drive import drive, drive_async
from pgsync.database.forks import renew_after_fork
from pgsync.database.kept import AsyncKeptConnection, KeptConnection
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.database.within import (
    run_within,
    run_within_async,
    together_within,
    together_within_async,
)
from pgsync.queues.calls import Enqueued, JobOptions, add_job
from pgsync.queues.copying import add_alike
from pgsync.queues.middleware import AroundEnqueue, BeforeEnqueue
from pgsync.queues.numbered import NumberedJob, Numbers, adding, numbered
from pgsync.queues.together import Enqueuing, NewJob, add_each

__all__ = ["AsyncEnqueuer", "Enqueuer"]

_MOST = 100


class Enqueuer:
    """The jobs that the threads of a process enqueue.

    What several enqueue at once goes in one transaction, on a connection that is kept for that.
    ``seen`` makes of each job what is enqueued; ``around`` is around each call.
    """

    def __init__(self, database: Database, seen: BeforeEnqueue, around: AroundEnqueue) -> None:
        self.seen = seen
        self._around = around
        self._database = database
        self._kept = KeptConnection(database)
        self._numbers = Numbers(self._kept.holds)
        self._begin()
        renew_after_fork(self, Enqueuer._begin)

    def _begin(self) -> None:
        self._combiner: Combiner[NumberedJob] = Combiner(self._serve, _MOST, gathers=1)

    def add(self, job: NewJob, within: Any = None) -> Enqueued:
        """Add a job; returns when it is committed, or is in the caller's transaction."""
        job = self.seen(job)
        with self._around(job.task, job.options.queue):
            if within is not None:
                return run_within(within, add_job(job.task, job.args, job.options))
            numbered_job = numbered(job)
            if numbered_job is None:
                return self._database.run(add_job(job.task, job.args, job.options))
            self._combiner.ask(numbered_job)
            return Enqueued(numbered_job.id, True)

    def add_alike(
        self, task: str, many_args: Iterable[dict[str, Any]], options: JobOptions, within: Any
    ) -> Any:
        """Add jobs of one task in one transaction, the caller's with ``within``; returns ids."""
        calls = _alike(task, many_args, options, self.seen, ahead=within is None)
        with self._around(task, options.queue):
            if within is None:
                return self._together(calls)
            with together_within(within):
                return drive(calls, lambda call: run_within(within, call))

    def add_together(self, calls: Enqueuing, within: Any = None) -> Any:
        """Make calls in one transaction, the caller's with ``within``; returns what they return."""
        with self._around(None, None):
            if within is None:
                return self._together(calls)
            return drive(calls, lambda call: run_within(within, call, lasting=True))

    def _together(self, calls: Enqueuing) -> Any:
        with self._database.connection() as connection, connection.transaction():
            return drive(calls, lambda call: run_within(connection, call))

    def close(self) -> None:
        """Close the kept connection."""
        self._kept.close()

    def _serve(self, jobs: list[NumberedJob]) -> None:
        drive(adding(jobs, self._numbers), self._kept.run)


class AsyncEnqueuer:
    """As :class:`Enqueuer`, for the tasks of an event loop."""

    def __init__(self, database: AsyncDatabase, seen: BeforeEnqueue, around: AroundEnqueue) -> None:
        self.seen = seen
        self._around = around
        self._database = database
        self._kept = AsyncKeptConnection(database)
        self._numbers = Numbers(self._kept.holds)
        self._begin()
        renew_after_fork(self, AsyncEnqueuer._begin)

    def _begin(self) -> None:
        self._combiner: AsyncCombiner[NumberedJob] = AsyncCombiner(self._serve, _MOST)

    async def add(self, job: NewJob, within: Any = None) -> Enqueued:
        """As :meth:`Enqueuer.add`."""
        job = self.seen(job)
        with self._around(job.task, job.options.queue):
            if within is not None:
                return await run_within_async(within, add_job(job.task, job.args, job.options))
            numbered_job = numbered(job)
            if numbered_job is None:
                return await self._database.run(add_job(job.task, job.args, job.options))
            await self._combiner.ask(numbered_job)
            return Enqueued(numbered_job.id, True)

    async def add_alike(
        self, task: str, many_args: Iterable[dict[str, Any]], options: JobOptions, within: Any
    ) -> Any:
        """As :meth:`Enqueuer.add_alike`."""
        calls = _alike(task, many_args, options, self.seen, ahead=within is None)
        with self._around(task, options.queue):
            if within is None:
                return await self._together(calls)
            async with together_within_async(within):
                return await drive_async(calls, lambda call: run_within_async(within, call))

    async def add_together(self, calls: Enqueuing, within: Any = None) -> Any:
        """As :meth:`Enqueuer.add_together`."""
        with self._around(None, None):
            if within is None:
                return await self._together(calls)
            return await drive_async(
                calls, lambda call: run_within_async(within, call, lasting=True)
            )

    async def _together(self, calls: Enqueuing) -> Any:
        async with self._database.connection() as connection, connection.transaction():
            return await drive_async(calls, lambda call: run_within_async(connection, call))

    async def close(self) -> None:
        """As :meth:`Enqueuer.close`."""
        await self._kept.close()

    async def _serve(self, jobs: list[NumberedJob]) -> None:
        await drive_async(adding(jobs, self._numbers), self._kept.run)


def _alike(
    task: str,
    many_args: Iterable[dict[str, Any]],
    options: JobOptions,
    seen: BeforeEnqueue,
    *,
    ahead: bool,
) -> Enqueuing:
    if seen:
        return add_each((NewJob(task, args, options) for args in many_args), seen)
    return add_alike(task, many_args, options, ahead=ahead)
