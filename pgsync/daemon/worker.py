"""The worker: claims jobs in batches, performs them side by side, records them in batches."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg

from pgsync.daemon.link import WorkerLink
from pgsync.daemon.report import describe_error
from pgsync.database.json import to_json
from pgsync.database.listener import listen
from pgsync.errors import InvalidArgument
from pgsync.locks import default_owner
from pgsync.queues import (
    CancelJob,
    DiscardJob,
    Job,
    JobContext,
    ReleaseJob,
    TaskDeclaration,
    TaskRegistry,
)
from pgsync.queues.calls import (
    claim_jobs,
    complete_jobs,
    fail_job,
    heartbeat,
    release_job,
    stop_job,
)
from pgsync.queues.context import performing

__all__ = ["Worker", "WorkerReport"]

logger = logging.getLogger("pgsync.worker")

_BATCH = 100
_POLL_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0


@dataclass(slots=True)
class WorkerReport:
    """What a worker has done, counted by the answers of the database."""

    completed: int = 0
    retryable: int = 0
    discarded: int = 0
    released: int = 0
    cancelled: int = 0
    late: int = 0


@dataclass(slots=True)
class _Running:
    worker: int
    context: JobContext
    task: asyncio.Task[None]


class Worker:
    """Performs the jobs of ``queues``, at most ``concurrency`` at once.

    Blocking handlers run in threads, coroutine handlers on the loop. With ``drain`` it ends when
    no job is available and none runs. After :meth:`stop` it claims no more, gives what runs
    ``grace`` seconds, and puts the rest back unspent.
    """

    def __init__(
        self,
        dsn: str,
        tasks: TaskRegistry,
        *,
        queues: Sequence[str] = ("default",),
        concurrency: int = 10,
        drain: bool = False,
        grace: float = 30.0,
        name: str | None = None,
    ) -> None:
        if isinstance(queues, str) or not queues or not all(queues):
            raise InvalidArgument("queues must be a list of names, for example ['default']")
        if concurrency < 1:
            raise InvalidArgument(f"concurrency must be 1 or more, not {concurrency}")
        self._dsn = dsn
        self._tasks = tasks
        self._queues = list(queues)
        self._concurrency = concurrency
        self._drain = drain
        self._grace = grace
        self._name = name or default_owner()
        self._running: dict[int, _Running] = {}
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._report = WorkerReport()

    def stop(self) -> None:
        """Claim no more and end in order. Call it on the worker's loop."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> WorkerReport:
        """Work until stopped (or, with ``drain``, until there is nothing to do)."""
        self._link = WorkerLink(self._dsn, self._name, self._queues, self._concurrency)
        self._done: asyncio.Queue[tuple[_Running, str | None]] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="pgsync-job")
        await self._link.open()
        background = [
            asyncio.create_task(self._record_completions()),
            asyncio.create_task(self._beat()),
            asyncio.create_task(listen(self._dsn, "pgsync_jobs", lambda _: self._wake.set())),
        ]
        try:
            await self._claim_until_done()
            await self._finish_running()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            for running in self._running.values():
                running.task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)
            # Where the database is away its own rescue does this.
            with suppress(psycopg.Error):
                self._report.released += await self._link.close()
        return self._report

    async def _claim_until_done(self) -> None:
        idle = False
        while not self._stopping.is_set():
            self._wake.clear()
            room = self._concurrency - len(self._running)
            jobs = await self._claim(min(room, _BATCH)) if room else []
            for job in jobs:
                self._start(job)
            if idle and jobs:
                idle = False
                await self._link.run(heartbeat(self._link.worker, idle=False))
            if jobs and room > len(jobs):
                continue
            if not self._running:
                if self._drain and self._done.empty():
                    return
                if not idle:
                    # Say so, then look once more: an enqueuer that did not see it sent no word.
                    idle = True
                    await self._link.run(heartbeat(self._link.worker, idle=True))
                    continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)

    async def _claim(self, batch: int) -> list[Job]:
        try:
            return await self._link.run(claim_jobs(self._link.worker, self._queues, batch))
        except psycopg.Error as error:
            if error.sqlstate != "PS003":
                raise
            logger.warning("worker %s was given up for dead; registering anew", self._link.worker)
            await self._link.register_again()
            return []

    def _start(self, job: Job) -> None:
        context = JobContext(job)
        running = _Running(
            self._link.worker, context, asyncio.create_task(self._perform(job, context))
        )
        self._running[job.id] = running

    async def _perform(self, job: Job, context: JobContext) -> None:
        running = self._running[job.id]
        task: TaskDeclaration | None = None
        try:
            task = self._tasks.find(job.task)
            result = await self._call(task, job, context)
            encoded = None if result is None else to_json(result, f"the result of {job.task}")
        except asyncio.CancelledError:
            if not context.cancelled.is_set():
                raise
            await self._cancelled(running, "cancelled while it ran")
        except ReleaseJob as release:
            state = await self._link.run(release_job(running.worker, job, release.delay))
            self._count(job, state, "released")
        except CancelJob as error:
            await self._cancelled(running, str(error))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is recorded
            await self._failed(running, task, error)
        else:
            self._done.put_nowait((running, encoded))
            return
        self._ended(job.id)

    async def _call(self, task: TaskDeclaration, job: Job, context: JobContext) -> Any:
        with performing(context):
            if task.is_async:
                return await task.function(**job.args)
            # The context goes along, so that current_job() is right in the thread too.
            call = partial(contextvars.copy_context().run, task.function, **job.args)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _failed(
        self, running: _Running, task: TaskDeclaration | None, error: BaseException
    ) -> None:
        job = running.context.job
        retry_in: timedelta | None = None
        if not isinstance(error, DiscardJob):
            retry_in = task.backoff.delay(job.attempt) if task else timedelta(minutes=1)
        logger.warning(
            "job %s (%s), attempt %s failed: %s",
            job.id,
            job.task,
            job.attempt,
            type(error).__name__,
        )
        call = fail_job(running.worker, job, describe_error(error), retry_in)
        state = await self._link.run(call)
        self._count(job, state, state or "late")

    async def _cancelled(self, running: _Running, reason: str) -> None:
        job = running.context.job
        state = await self._link.run(stop_job(running.worker, job, reason))
        self._count(job, state, "cancelled")

    def _count(self, job: Job, state: str | None, outcome: str) -> None:
        if state is None:
            outcome = "late"
            logger.warning("job %s, attempt %s ended too late: refused", job.id, job.attempt)
        setattr(self._report, outcome, getattr(self._report, outcome) + 1)

    def _ended(self, job_id: int) -> None:
        self._running.pop(job_id, None)
        self._wake.set()

    async def _record_completions(self) -> None:
        """Complete what has ended, as many jobs in one statement as have gathered meanwhile."""
        while True:
            batch = [await self._done.get()]
            while not self._done.empty() and len(batch) < _BATCH:
                batch.append(self._done.get_nowait())
            for worker in {running.worker for running, _ in batch}:
                await self._record(worker, [each for each in batch if each[0].worker == worker])

    async def _record(self, worker: int, batch: list[tuple[_Running, str | None]]) -> None:
        jobs = [running.context.job for running, _ in batch]
        done = [(running.context.id, running.context.attempt, result) for running, result in batch]
        try:
            accepted = set(await self._link.run(complete_jobs(worker, done)))
        except Exception:
            # One result that the server refuses must not hold up the others.
            if len(batch) == 1:
                logger.exception("job %s could not be completed", jobs[0].id)
                self._ended(jobs[0].id)
                return
            for each in batch:
                await self._record(worker, [each])
            return
        for job in jobs:
            self._count(job, "completed" if job.id in accepted else None, "completed")
            self._ended(job.id)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            idle = not self._running
            known, cancelled = await self._link.run(heartbeat(self._link.worker, idle=idle))
            if not known:
                await self._link.register_again()
            for job_id in cancelled:
                running = self._running.get(job_id)
                if running is not None:
                    running.context.cancelled.set()
                    if self._tasks.find(running.context.job.task).is_async:
                        running.task.cancel()

    async def _finish_running(self) -> None:
        """Wait for what runs, and for its record, within the grace."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self._running:
                    self._wake.clear()
                    await self._wake.wait()
