"""The worker: claims jobs in batches, performs them side by side, records them in batches."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import psycopg

from pgsync.daemon.handler_processes import HandlerProcesses
from pgsync.daemon.link import WorkerLink
from pgsync.daemon.performing import Performing
from pgsync.daemon.recorder import WorkerReport
from pgsync.daemon.wakeups import Wakeups
from pgsync.database.listener import listen
from pgsync.errors import ConnectionFailed, InvalidArgument, PgsyncError
from pgsync.locks import default_owner
from pgsync.queues import Job, TaskRegistry
from pgsync.queues.work import claim_jobs, heartbeat, worker_hears, worker_stops

__all__ = ["Worker", "WorkerReport"]

logger = logging.getLogger("pgsync.worker")

_POLL_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0


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
        # The worker of whom the database says that it waits for notifications.
        self._waits_as: int | None = None
        self._deaf_as: int | None = None
        self._stopping = asyncio.Event()
        self._told_handlers = threading.Event()
        self._ending: asyncio.Timeout | None = None
        self._processes = HandlerProcesses()
        self._wakeups = Wakeups(self._queues)
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
        self._wakeups.watch(self._queues)
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
        self._wakeups.stir()
        self._processes.stop()

    def stop_at_once(self) -> None:
        """As :meth:`stop`, without what is left of the grace."""
        self._grace = 0.0
        if self._ending is not None:
            self._ending.reschedule(0.0)
        self.stop()

    async def run(self) -> WorkerReport:
        """Work until stopped (or, with ``drain``, until there is nothing to do)."""
        self._performing = performing = Performing(
            self._link,
            self._tasks,
            self._processes,
            self._wakeups,
            self._told_handlers,
            lambda: self._concurrency,
        )
        await self._link.open()
        background = [
            *(asyncio.create_task(_keep_going(run)) for run in (self._beat, *performing.loops)),
            asyncio.create_task(listen(self._dsn, "pgsync_jobs", self._hear, self._listens)),
        ]
        try:
            # Raised only by a link that stops while the database is away.
            with suppress(ConnectionFailed):
                await self._claim_until_done()
            await performing.put_back_waiting()
            await self._say_it_stops()
            await self._finish_running()
        finally:
            performing.abort()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            performing.close()
            # Where the database is away its own rescue does this.
            with suppress(psycopg.Error, PgsyncError):
                performing.report.released += await self._link.close()
        return performing.report

    # --- claiming ----------------------------------------------------------------------------

    async def _claim_until_done(self) -> None:
        emptied = False
        while not self._stopping.is_set():
            self._wakeups.clear()
            room = 0 if self._wakeups.quiet else self._performing.room()
            jobs = await self._claim(room) if room > 0 else []
            self._performing.take(jobs)
            if jobs:
                await asyncio.sleep(0)  # First of all they begin.
            if room > 0 and len(jobs) < room:
                self._performing.claim_no_more_ahead()
                if not jobs and not self._performing and self._drain:
                    # A claim may end early, and let others have the tables: ask once more.
                    if emptied:
                        return
                    emptied = True
                    continue
                emptied = False
                if self._wakeups.flooded and not self._drain:
                    await self._say_waits(False)
                    await self._wakeups.pause(self._stopping)
                    continue
                if await self._say_waits(True):
                    continue  # Once more: who enqueued before this was seen sent no word.
                if not self._drain:
                    self._wakeups.settle()
            elif room > 0:
                await self._say_waits(False)
                continue
            await self._wakeups.wait()

    async def _claim(self, batch: int) -> list[Job]:
        worker = self._link.worker
        try:
            jobs = await self._link.run(claim_jobs(worker, self._queues, batch, self._weights))
            if jobs:
                self._wakeups.found()
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

    # --- hearing, and being heard --------------------------------------------------------------

    def _listens(self, listening: bool) -> None:
        self._listening = listening

    def _hear(self, word: str) -> None:
        """A queue that has something new, or which worker has a job to cancel."""
        if word == f"cancel {self._link.worker}":
            self._beat_now.set()
        else:
            self._wakeups.heard(word)

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
                self._performing.cancel(job_id)

    # --- ending ------------------------------------------------------------------------------

    async def _say_it_stops(self) -> None:
        """Tell who looks that it claims no more, where it has to wait for what runs."""
        if self._performing:
            with suppress(psycopg.Error, PgsyncError):
                await self._link.run(worker_stops(self._link.worker))

    async def _finish_running(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace) as self._ending:
                await self._performing.finish()
        self._ending = None


async def _keep_going(loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("a loop of the worker failed; starting it again")
        await asyncio.sleep(_POLL_SECONDS)
