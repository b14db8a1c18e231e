"""The worker: claims jobs in batches, performs them side by side, records them in batches."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import psycopg

from pgsync.daemon.attempt import Attempt
from pgsync.daemon.discards import DiscardCallbacks
from pgsync.daemon.handler_processes import HandlerProcesses
from pgsync.daemon.lanes import Lanes
from pgsync.daemon.link import WorkerLink
from pgsync.daemon.progress import Progress
from pgsync.daemon.recorder import Recorder, WorkerReport
from pgsync.daemon.signals import Signals
from pgsync.daemon.threads import HandlerThreads
from pgsync.daemon.time_limits import TimeLimits
from pgsync.database.listener import listen
from pgsync.errors import ConnectionFailed, InvalidArgument, PgsyncError, UnknownTask
from pgsync.locks import default_owner
from pgsync.queues import CancelJob, Job, JobContext, TaskDeclaration, TaskRegistry
from pgsync.queues.work import claim_jobs, give_back_jobs, heartbeat, worker_hears, worker_stops

__all__ = ["Worker", "WorkerReport"]

logger = logging.getLogger("pgsync.worker")

_POLL_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_MOST_AHEAD = 1_000
_PACE_SECONDS = 0.05


class Worker:
    """Performs the jobs of ``queues``, at most ``concurrency`` at once.

    Blocking handlers run in threads, coroutine handlers on the loop. With ``drain`` it ends when
    no job is available and none runs. After :meth:`stop` it claims no more, gives what runs
    ``grace`` seconds, and puts the rest back unspent; :meth:`stop_at_once` gives it none.
    """

    def __init__(
        self,
        dsn: str,
        tasks: TaskRegistry,
        *,
        queues: Sequence[str] | Mapping[str, int] = ("default",),
        concurrency: int = 10,
        drain: bool = False,
        grace: float = 30.0,
        name: str | None = None,
        kinds: Sequence[str] = ("worker",),
    ) -> None:
        self._take_options(queues, concurrency)
        self._dsn = dsn
        self._tasks = tasks
        self._drain = drain
        self._grace = grace
        self._name = name or default_owner()
        # All that is claimed and not recorded yet, and of that what has not begun.
        self._attempts: dict[int, Attempt] = {}
        self._next: deque[Attempt] = deque()
        # The worker of whom the database says that it waits for notifications.
        self._waits_as: int | None = None
        self._deaf_as: int | None = None
        self._ahead = 0
        self._stopping = asyncio.Event()
        self._told_handlers = threading.Event()
        self._aborting = False
        self._ending: asyncio.Timeout | None = None
        self._processes = HandlerProcesses()
        self._signals = Signals(self._queues)
        self._beat_now = asyncio.Event()
        self._changed = False
        self._listening = False
        self._link = WorkerLink(
            dsn, self._name, self._queues, self._concurrency, self._stopping, kinds
        )

    def _take_options(self, queues: Sequence[str] | Mapping[str, int], concurrency: int) -> None:
        if isinstance(queues, str) or not queues or not all(queues):
            raise InvalidArgument("queues must be a list of names, for example ['default']")
        weights = list(queues.values()) if isinstance(queues, Mapping) else None
        if any(not isinstance(weight, int) or weight < 1 for weight in weights or ()):
            raise InvalidArgument(f"the weights of queues must be 1 or more: {queues}")
        if concurrency < 1:
            raise InvalidArgument(f"concurrency must be 1 or more, not {concurrency}")
        self._queues, self._weights, self._concurrency = list(queues), weights, concurrency

    def change(self, queues: Sequence[str] | Mapping[str, int], concurrency: int) -> None:
        """Claim from these queues from now on, and run so many at once; what runs goes on.

        Call it on the worker's loop.

        Raises:
            InvalidArgument: if they can never work; nothing has changed then.
        """
        self._take_options(queues, concurrency)
        self._signals.watch(self._queues)
        self._changed = True
        self._beat_now.set()

    @property
    def unready(self) -> str | None:
        """Why it cannot claim now; None where it can."""
        return self._link.unready

    @property
    def listening(self) -> bool | None:
        """Whether word of new jobs reaches it."""
        return self._listening

    def stop(self) -> None:
        """Claim no more and end in order. Call it on the worker's loop."""
        self._stopping.set()
        self._told_handlers.set()
        self._signals.stir()
        self._processes.stop()

    def stop_at_once(self) -> None:
        """As :meth:`stop`, without what is left of the grace."""
        self._grace = 0.0
        if self._ending is not None:
            self._ending.reschedule(0.0)
        self.stop()

    async def run(self) -> WorkerReport:
        """Work until stopped (or, with ``drain``, until there is nothing to do)."""
        self._pace = _Pace()
        self._progress = Progress(self._link)
        self._discards = DiscardCallbacks(self._link, self._tasks)
        self._recorder = Recorder(self._link, self._discards, self._recorded)
        self._time_limits = TimeLimits(self._recorder.add)
        self._threads = HandlerThreads(self._room, self._time_limits.watch, self._ended)
        self._lanes = Lanes(self._next_coroutine, self._time_limits.watch, self._coroutine_ended)
        report = self._recorder.report
        await self._link.open()
        background = [
            asyncio.create_task(_keep_going(self._recorder.run)),
            asyncio.create_task(_keep_going(self._beat)),
            asyncio.create_task(_keep_going(self._progress.run)),
            asyncio.create_task(_keep_going(self._processes.run)),
            asyncio.create_task(_keep_going(self._discards.run)),
            asyncio.create_task(listen(self._dsn, "pgsync_jobs", self._hear, self._listens)),
        ]
        try:
            # Raised only by a link that stops while the database is away.
            with suppress(ConnectionFailed):
                await self._claim_until_done()
            await self._put_back_waiting()
            await self._say_it_stops()
            await self._finish_running()
        finally:
            self._aborting = True
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            for attempt in self._attempts.values():
                if attempt.running is not None:
                    attempt.running.cancel()
            self._threads.close()
            self._processes.close()
            self._discards.close()
            # Where the database is away its own rescue does this.
            with suppress(psycopg.Error, PgsyncError):
                report.released += await self._link.close()
        return report

    # --- claiming ----------------------------------------------------------------------------

    async def _claim_until_done(self) -> None:
        emptied = False
        while not self._stopping.is_set():
            self._signals.clear()
            room = 0 if self._signals.quiet else self._room_for_claims()
            jobs = await self._claim(room) if room > 0 else []
            self._take(jobs)
            if jobs:
                await asyncio.sleep(0)  # First of all they begin.
            if room > 0 and len(jobs) < room:
                self._ahead = 0
                if not jobs and not self._attempts and self._drain:
                    # A claim may end early, and let others have the tables: ask once more.
                    if emptied:
                        return
                    emptied = True
                    continue
                emptied = False
                if self._signals.flooded and not self._drain:
                    await self._say_waits(False)
                    await self._signals.pause(self._stopping)
                    continue
                if await self._say_waits(True):
                    continue  # Once more: who enqueued before this was seen sent no word.
                if not self._drain:
                    self._signals.settle()
            elif room > 0:
                await self._say_waits(False)
                continue
            await self._signals.wait()

    def _room_for_claims(self) -> int:
        """How many jobs to claim now; under load none, until it is a batch that pays."""
        most, ended = self._concurrency + self._ahead, self._recorder.pending
        if ended > most:
            return 0  # Recording does not keep up.
        # What has ended needs no place but the database's. An expired attempt is recorded, but its
        # handler is still in somebody's place.
        room = most - (len(self._attempts) - ended) - self._time_limits.overdue
        return room if room > self._ahead // 2 else 0

    async def _claim(self, batch: int) -> list[Job]:
        worker = self._link.worker
        try:
            jobs = await self._link.run(claim_jobs(worker, self._queues, batch, self._weights))
            if jobs:
                self._signals.found()
            return jobs
        except (psycopg.Error, PgsyncError) as error:
            if getattr(error, "sqlstate", None) == "PS003":
                logger.warning("worker %s was given up for dead", worker)
                # Where the session broke in this very call, it has registered anew already.
                if worker == self._link.worker:
                    await self._link.register_again()
            else:
                await self._bear(error, "jobs could not be claimed")
            return []

    async def _bear(self, error: Exception, what: str) -> None:
        """Outlive what the server cannot do now: it may be short of disk, locks or memory."""
        # With the latter the link says that it stops.
        if self._drain or isinstance(error, ConnectionFailed):
            raise error
        logger.warning("%s, trying again: %s", what, error)
        await asyncio.sleep(_POLL_SECONDS)

    @property
    def _waits(self) -> bool:
        return self._waits_as == self._link.worker

    async def _say_waits(self, waits: bool) -> bool:
        """Say whether enqueuing is to notify this worker; True where that is news to the server."""
        if waits is self._waits or self._drain:
            return False
        worker = self._link.worker
        try:
            await self._link.run(heartbeat(worker, idle=waits))
        except (psycopg.Error, PgsyncError) as error:
            await self._bear(error, "the heartbeat failed")
        else:
            self._waits_as = worker if waits else None
        return True

    # --- performing --------------------------------------------------------------------------

    def _take(self, jobs: list[Job]) -> None:
        stopping, worker, tell = self._told_handlers, self._link.worker, self._progress.tell
        around, attempts = self._tasks.middleware, self._attempts
        tasks = {name: self._find(name) for name in {job.task for job in jobs}}
        for job in jobs:
            context = JobContext(job, stopping, worker=worker, tell=tell)
            attempt = Attempt(worker, context, tasks[job.task], around, self._processes)
            attempts[job.id] = attempt
            self._next.append(attempt)
        self._start_next()

    def _find(self, name: str) -> TaskDeclaration | None:
        try:
            return self._tasks.find(name)
        except UnknownTask:
            return None

    def _room(self) -> int:
        return self._concurrency - self._lanes.waiting - self._threads.awake

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
        if not self._next or len(self._threads) or self._room() <= 0:
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
        self._signals.nudge()

    def _recorded(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._attempts.pop(attempt.context.id, None)
        self._ahead = self._pace.ahead(len(attempts), self._ahead)
        self._start_next()
        self._signals.nudge()

    def _listens(self, listening: bool) -> None:
        self._listening = listening

    def _hear(self, word: str) -> None:
        """A queue that has something new, or which worker has a job to cancel."""
        if word == f"cancel {self._link.worker}":
            self._beat_now.set()
        else:
            self._signals.heard(word)

    async def _say_hears(self) -> None:
        """Tell who looks, once, that it only polls, and when it hears again."""
        worker = self._link.worker
        deaf_as = None if self._listening else worker
        if deaf_as != self._deaf_as:
            await self._link.run(worker_hears(worker, hears=self._listening))
            self._deaf_as = deaf_as

    async def _beat(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat_now.wait(), _HEARTBEAT_SECONDS)
            self._beat_now.clear()
            if self._changed:
                self._changed = False
                await self._link.change(self._queues, self._concurrency)
            worker = self._link.worker
            known, cancelled = await self._link.run(heartbeat(worker, idle=self._waits))
            if not known and worker == self._link.worker:
                await self._link.register_again()
            await self._say_hears()
            for job_id in cancelled:
                attempt = self._attempts.get(job_id)
                # Once: a second one would interrupt its clean-up.
                if attempt is not None and not attempt.context.is_cancelled:
                    attempt.context.cancelled.set()
                    self._processes.cancel(job_id)
                    if attempt.running is not None:
                        attempt.running.cancel()

    # --- ending ------------------------------------------------------------------------------

    async def _put_back_waiting(self) -> None:
        """Give what has not begun to others at once: what runs may take its whole grace."""
        waiting = [*self._threads.withdraw(), *self._next]
        self._next.clear()
        for attempt in waiting:
            self._attempts.pop(attempt.context.id, None)
        if waiting:
            ids = [attempt.context.id for attempt in waiting]
            with suppress(psycopg.Error, PgsyncError):
                call = give_back_jobs(self._link.worker, ids)
                self._recorder.report.released += await self._link.run(call)

    async def _say_it_stops(self) -> None:
        """Tell who looks that it claims no more, where it has to wait for what runs."""
        if self._attempts:
            with suppress(psycopg.Error, PgsyncError):
                await self._link.run(worker_stops(self._link.worker))

    async def _finish_running(self) -> None:
        """Wait for what runs, its record, and callbacks, within the grace."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace) as self._ending:
                while self._attempts:
                    self._signals.clear()
                    await self._signals.wait()
                await self._discards.finish()
        self._ending = None


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


async def _keep_going(loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("a loop of the worker failed; starting it again")
        await asyncio.sleep(_POLL_SECONDS)
