"""Recording how attempts ended: completions in batches, whatever else one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from pgsync.daemon.attempt import Attempt
from pgsync.daemon.discards import DiscardCallbacks
from pgsync.daemon.link import WorkerLink
from pgsync.daemon.report import describe_error
from pgsync.database.calls import Call
from pgsync.database.words import words_of
from pgsync.errors import InvalidArgument
from pgsync.queues import CancelJob, DiscardJob, Job, ReleaseJob
from pgsync.queues.retry import Backoff, RetryPolicy
from pgsync.queues.work import (
    complete_jobs,
    completed_jobs,
    fail_job,
    keep_logs,
    release_job,
    stop_job,
)

__all__ = ["Recorder", "WorkerReport"]

logger = logging.getLogger("pgsync.worker")

_BATCH = 1_000
_PAUSE_SECONDS = 1.0
# From so many on, recording goes on beside the next claim.
_MANY = 50
_UNDECLARED = RetryPolicy(Backoff((60.0,), factor=1.0))


@dataclass(slots=True)
class WorkerReport:
    """What a worker has done, counted by the answers of the database."""

    completed: int = 0
    retryable: int = 0
    discarded: int = 0
    released: int = 0
    cancelled: int = 0
    late: int = 0

    def add(self, other: WorkerReport) -> None:
        """Count what another worker has done too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Recorder:
    """Tells the database how attempts ended, and ``recorded`` when it has heard."""

    def __init__(
        self,
        link: WorkerLink,
        discards: DiscardCallbacks,
        recorded: Callable[[list[Attempt]], None],
    ) -> None:
        self._link = link
        self._recorded = recorded
        self._ended: list[Attempt] = []
        self._some = asyncio.Event()
        self._discards = discards
        self.report = WorkerReport()

    @property
    def pending(self) -> int:
        """How many ends are not recorded yet."""
        return len(self._ended)

    def add(self, attempt: Attempt) -> None:
        """Have the end of an attempt recorded."""
        self._ended.append(attempt)
        self._some.set()

    async def run(self) -> None:
        """Record what has ended, as many in one statement as have gathered meanwhile."""
        while True:
            await self._some.wait()
            batch = self._ended[:_BATCH]
            if logged := [each for each in batch if each.context.lines is not None]:
                await self._keep_logs(logged)
            completed = [attempt for attempt in batch if attempt.error is None]
            for worker in {attempt.worker for attempt in completed}:
                await self._complete([each for each in completed if each.worker == worker])
            # Also what the server would not take as completed.
            for attempt in [attempt for attempt in batch if attempt.error is not None]:
                assert attempt.error is not None
                await self._end(attempt, attempt.error)
            del self._ended[: len(batch)]
            if not self._ended:
                self._some.clear()
            self._recorded(batch)

    async def _keep_logs(self, attempts: list[Attempt]) -> None:
        """Before the ends, so that nobody sees an ended job without them; asked for once only."""
        for worker in {each.worker for each in attempts}:
            try:
                logs = [
                    (each.context.id, each.context.attempt, each.context.lines.as_json())
                    for each in attempts
                    if each.worker == worker and each.context.lines is not None
                ]
                await self._link.run(keep_logs(worker, logs))
            except Exception as error:  # noqa: BLE001 - no end may wait for it
                logger.warning("what handlers logged could not be kept: %s", error)

    async def _complete(self, attempts: list[Attempt]) -> None:
        jobs = [each.context.job for each in attempts]
        ids = [job.id for job in jobs]
        call = complete_jobs(
            attempts[0].worker,
            ids,
            [job.attempt for job in jobs],
            [each.result for each in attempts],
        )
        try:
            answer = await self._ask(call, len(ids) >= _MANY)
        except InvalidArgument as error:
            # One result that the server refuses must not hold up the others.
            if len(attempts) == 1:
                attempts[0].error = error
                return
            for each in attempts:
                await self._complete([each])
            return
        if answer is None:
            self.report.completed += len(ids)
            return
        accepted = set(answer)
        # Those that were completed in a transaction of their handler's own.
        own = [each.context.id for each in attempts if each.context.completed]
        if own := [job_id for job_id in own if job_id not in accepted]:
            accepted.update(await self._ask(completed_jobs(attempts[0].worker, own)))
        for each in attempts:
            self._count(each, "completed" if each.context.id in accepted else None)

    async def _end(self, attempt: Attempt, error: BaseException) -> None:
        job, worker = attempt.context.job, attempt.worker
        if isinstance(error, ReleaseJob):
            state = await self._ask(release_job(worker, job, error.delay, words_of(error)))
            self._count(attempt, "released" if state == "scheduled" else state)
            return
        if isinstance(error, CancelJob):
            self._count(attempt, await self._ask(stop_job(worker, job, words_of(error))))
            return
        policy = attempt.task.policy if attempt.task else _UNDECLARED
        retry_in = None if isinstance(error, DiscardJob) else policy.delay(error, job.attempt)
        logger.warning(
            "job %s (%s), attempt %s failed: %s",
            job.id,
            job.task,
            job.attempt,
            type(error).__name__,
            extra=_fields(job),
        )
        call = fail_job(
            worker,
            job,
            describe_error(error),
            retry_in,
            policy.until,
            policy.max_exceptions,
            will_tell=attempt.task is not None and attempt.task.on_discard is not None,
        )
        state = await self._ask(call)
        if attempt.context.completed and state is None:
            # It failed after its transaction had committed.
            state = "completed" if await self._ask(completed_jobs(worker, [job.id])) else None
        self._count(attempt, state)
        if state == "discarded":
            self._discards.tell(attempt, error)

    async def _ask(self, call: Call[Any], beside: bool = False) -> Any:
        """Ask until there is an answer: a disk that is full now may have room later."""
        while True:
            try:
                return await (self._link.run_beside if beside else self._link.run)(call)
            except InvalidArgument:
                raise
            except Exception as error:  # noqa: BLE001 - an ending must not get lost
                logger.warning("the end of jobs could not be recorded, trying again: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)

    def _count(self, attempt: Attempt, outcome: str | None) -> None:
        if outcome is None:
            outcome = "late"
            job = attempt.context.job
            logger.warning(
                "job %s, attempt %s ended too late: refused",
                job.id,
                job.attempt,
                extra=_fields(job),
            )
        setattr(self.report, outcome, getattr(self.report, outcome) + 1)


def _fields(job: Job) -> dict[str, Any]:
    return {"job": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}
