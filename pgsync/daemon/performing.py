"""The jobs of a worker from their claim to their record: what waits, what runs, what has ended."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from pgsync.daemon.attempt import Attempt
from pgsync.daemon.discards import DiscardCallbacks
from pgsync.daemon.handler_processes import HandlerProcesses
from pgsync.daemon.lanes import Lanes
from pgsync.daemon.link import WorkerLink
from pgsync.daemon.progress import Progress
from pgsync.daemon.recorder import Recorder, WorkerReport
from pgsync.daemon.threads import HandlerThreads
from pgsync.daemon.time_limits import TimeLimits
from pgsync.daemon.wakeups import Wakeups
from pgsync.errors import PgsyncError, UnknownTask
from pgsync.queues import CancelJob, Job, JobContext, TaskDeclaration, TaskRegistry
from pgsync.queues.work import give_back_jobs

__all__ = ["Performing"]

_MOST_AHEAD = 1_000
_PACE_SECONDS = 0.05


class Performing:
    """Performs jobs, at most ``concurrency()`` at once: in threads, or on the loop that made this.

    ``wakeups`` are nudged when one has ended and when its end is recorded; ``stopping`` is what
    handlers look at to learn that they should come to an end.
    """

    def __init__(
        self,
        link: WorkerLink,
        tasks: TaskRegistry,
        processes: HandlerProcesses,
        wakeups: Wakeups,
        stopping: threading.Event,
        concurrency: Callable[[], int],
    ) -> None:
        self._concurrency = concurrency
        self._link = link
        self._tasks = tasks
        self._processes = processes
        self._wakeups = wakeups
        self._stopping = stopping
        # All that is claimed and not recorded yet, and of that what has not begun.
        self._attempts: dict[int, Attempt] = {}
        self._next: deque[Attempt] = deque()
        self._ahead = 0
        self._aborting = False
        self._pace = _Pace()
        self._progress = Progress(link)
        self._discards = DiscardCallbacks(link, tasks)
        self._recorder = Recorder(link, self._discards, self._recorded)
        self._time_limits = TimeLimits(self._recorder.add)
        self._threads = HandlerThreads(self._free, self._time_limits.watch, self._ended)
        self._lanes = Lanes(self._next_coroutine, self._time_limits.watch, self._coroutine_ended)

    def __len__(self) -> int:
        """How many jobs are claimed whose end is not recorded yet."""
        return len(self._attempts)

    @property
    def report(self) -> WorkerReport:
        """What was done so far."""
        return self._recorder.report

    @property
    def loops(self) -> list[Callable[[], Awaitable[None]]]:
        """What must run beside the handlers."""
        return [self._recorder.run, self._progress.run, self._processes.run, self._discards.run]

    def room(self) -> int:
        """How many jobs to claim now; under load none, until it is a batch that pays."""
        most, ended = self._concurrency() + self._ahead, self._recorder.pending
        if ended > most:
            return 0  # Recording does not keep up.
        # What has ended needs no place but the database's. An expired attempt is recorded, but its
        # handler is still in somebody's place.
        room = most - (len(self._attempts) - ended) - self._time_limits.overdue
        return room if room > self._ahead // 2 else 0

    def claim_no_more_ahead(self) -> None:
        """Note that the backlog is at its end: others should find some of what comes."""
        self._ahead = 0

    def take(self, jobs: list[Job]) -> None:
        """Perform these."""
        stopping, worker, tell = self._stopping, self._link.worker, self._progress.tell
        around, attempts = self._tasks.middleware, self._attempts
        tasks = {name: self._find(name) for name in {job.task for job in jobs}}
        for job in jobs:
            context = JobContext(job, stopping, worker=worker, tell=tell)
            attempt = Attempt(worker, context, tasks[job.task], around, self._processes)
            attempts[job.id] = attempt
            self._next.append(attempt)
        self._start_next()

    def cancel(self, job_id: int) -> None:
        """Tell the handler of a job that it is to end."""
        attempt = self._attempts.get(job_id)
        # Once: a second one would interrupt its clean-up.
        if attempt is not None and not attempt.context.is_cancelled:
            attempt.context.cancelled.set()
            self._processes.cancel(job_id)
            if attempt.running is not None:
                attempt.running.cancel()

    async def put_back_waiting(self) -> None:
        """Give what has not begun to others at once: what runs may take its whole grace."""
        waiting = [*self._threads.withdraw(), *self._next]
        self._next.clear()
        for attempt in waiting:
            self._attempts.pop(attempt.context.id, None)
        if waiting:
            ids = [attempt.context.id for attempt in waiting]
            with suppress(psycopg.Error, PgsyncError):
                self.report.released += await self._link.run(give_back_jobs(self._link.worker, ids))

    async def finish(self) -> None:
        """Wait for what runs, its record, and callbacks."""
        while self._attempts:
            self._wakeups.clear()
            await self._wakeups.wait()
        await self._discards.finish()

    def abort(self) -> None:
        """From now on handlers are cancelled because all ends, which is no end of their jobs."""
        self._aborting = True

    def close(self) -> None:
        """End what still runs."""
        for attempt in self._attempts.values():
            if attempt.running is not None:
                attempt.running.cancel()
        self._threads.close()
        self._processes.close()
        self._discards.close()

    def _find(self, name: str) -> TaskDeclaration | None:
        try:
            return self._tasks.find(name)
        except UnknownTask:
            return None

    def _free(self) -> int:
        return self._concurrency() - self._lanes.waiting - self._threads.awake

    def _start_next(self) -> None:
        self._queue_blocking()
        if self._next:
            self._lanes.work()

    def _queue_blocking(self) -> None:
        """Hand the blocking ones that are next to the threads."""
        while self._next and self._next[0].blocks:
            self._threads.add(self._next.popleft())
        self._threads.work()

    def _next_coroutine(self) -> Attempt | None:
        if self._next and self._next[0].blocks:
            self._queue_blocking()
        # Not before those blocking ones that came first.
        if not self._next or len(self._threads) or self._free() <= 0:
            return None
        return self._next.popleft()

    def _coroutine_ended(self, attempt: Attempt, cancelled: asyncio.CancelledError | None) -> None:
        if cancelled is not None:
            if self._aborting:
                return
            asked = attempt.context.is_cancelled
            attempt.error = CancelJob("cancelled while it ran") if asked else cancelled
        self._ended(attempt)
        if attempt.running is not None:
            self._start_next()  # In the place that it had.

    def _ended(self, attempt: Attempt) -> None:
        if self._time_limits.in_time(attempt):
            self._recorder.add(attempt)
        self._wakeups.nudge()

    def _recorded(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._attempts.pop(attempt.context.id, None)
        self._ahead = self._pace.ahead(len(attempts), self._ahead)
        self._start_next()
        self._wakeups.nudge()


class _Pace:
    """How many jobs to claim ahead: as many as are finished in one beat, so that claims grow with
    the backlog, and long jobs are left to whoever is free first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._finished = 0

    def ahead(self, finished: int, before: int) -> int:
        self._finished += finished
        lasted = self._loop.time() - self._since
        if lasted < _PACE_SECONDS:
            return before
        pace = self._finished / lasted
        self._since, self._finished = self._loop.time(), 0
        return min(_MOST_AHEAD, int(pace * _PACE_SECONDS))
