"""Telling tasks of their discarded jobs: the callbacks that ``on_discard`` declares."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import suppress

import psycopg

from pgsync.daemon.attempt import Attempt
from pgsync.daemon.link import WorkerLink
from pgsync.errors import PgsyncError
from pgsync.queues import JobContext, JobDiscarded, TaskRegistry, WorkerDied
from pgsync.queues.context import performing
from pgsync.queues.work import discards_told, take_discards

__all__ = ["DiscardCallbacks"]

logger = logging.getLogger("pgsync.worker")

_AT_ONCE = 10
_LOOK_SECONDS = 5.0


class DiscardCallbacks:
    """Calls ``on_discard`` of jobs whose discarding is recorded, beside the worker's own work.

    It is told of this worker's own. It looks for those whose worker died before it could tell, and
    those that were discarded by hand: each is called here or by another worker that knows the task,
    at least once. Blocking callbacks run in threads, a few at once. An error in one is logged.
    """

    def __init__(self, link: WorkerLink, tasks: TaskRegistry) -> None:
        self._link = link
        self._tasks = tasks
        self._calls: dict[asyncio.Task[None], int] = {}
        self._closed = False
        self._room = asyncio.Semaphore(_AT_ONCE)

    def tell(self, attempt: Attempt, error: BaseException) -> None:
        """Have the callback of a discarded job called, if its task has one."""
        if attempt.task is not None and attempt.task.on_discard is not None:
            call = asyncio.create_task(self._call(attempt, error))
            self._calls[call] = attempt.context.id
            call.add_done_callback(self._calls.pop)

    async def run(self) -> None:
        """Look for discarded jobs that no worker has told of, until cancelled."""
        while True:
            names = [task.name for task in self._tasks if task.on_discard is not None]
            if names:
                for job, error, by_hand in await self._link.run(take_discards(names)):
                    context = JobContext(job, worker=self._link.worker)
                    attempt = Attempt(context.worker, context, self._tasks.find(job.task))
                    kind = JobDiscarded if by_hand else WorkerDied
                    self.tell(attempt, kind(error or "discarded by hand"))
            await asyncio.sleep(_LOOK_SECONDS)

    async def finish(self) -> None:
        """Wait for the calls that go on."""
        while self._calls:
            await asyncio.wait(list(self._calls))

    def close(self) -> None:
        """Give up the calls that have not ended, and name their jobs."""
        self._closed = True
        if self._calls:
            logger.error("on_discard did not end for jobs %s", sorted(self._calls.values()))
        for call in self._calls:
            call.cancel()

    async def _call(self, attempt: Attempt, error: BaseException) -> None:
        assert attempt.task is not None
        callback, job = attempt.task.on_discard, attempt.context.job
        assert callback is not None
        try:
            async with self._room:
                with performing(attempt.context):
                    if inspect.iscoroutinefunction(callback):
                        await callback(job, error)
                    else:
                        await asyncio.to_thread(callback, job, error)
        except BaseException:  # Not even SystemExit may end the worker's loop
            if self._closed:
                raise
            logger.exception("on_discard of job %s (%s) failed", job.id, job.task)
        # Where the database is away, it is told again.
        with suppress(psycopg.Error, PgsyncError):
            await self._link.run(discards_told([job.id]))
