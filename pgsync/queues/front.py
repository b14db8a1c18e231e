"""What a coordinator offers about jobs and queues, once for each face."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Unpack

from pgsync.database.calls import first
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.durations import Duration
from pgsync.queues import calls
from pgsync.queues.calls import JobState
from pgsync.queues.enqueuer import AsyncEnqueuer, Enqueuer
from pgsync.queues.explain import JobExplanation, why_not_running
from pgsync.queues.limits import QueueLimits, limit_queue, retain_queue, weigh_tenant
from pgsync.queues.resealing import resealing
from pgsync.queues.together import (
    BatchState,
    JobBatch,
    NewJob,
    add_batch,
    add_chain,
    find_batch,
)

__all__ = ["AsyncQueues", "Queues"]


class Queues:
    """The queues of a blocking coordinator."""

    database: Database
    enqueuer: Enqueuer

    def job(self, job_id: int) -> JobState | None:
        """A job, live or ended; None where there is none."""
        return first(self.database.run(calls.find_job(job_id)))

    def why_not_running(self, job_id: int) -> JobExplanation:
        """What a job waits for: its time, a pause, a limit, others; or how it runs or ended."""
        return self.database.run(why_not_running(job_id))

    def cancel_job(self, job_id: int, reason: str | None = None) -> str | None:
        """Cancel a job: ``cancelled``, ``running`` (asked to stop), or None where it has ended."""
        return self.database.run(calls.cancel_job(job_id, reason))

    def retry_job(self, job_id: int) -> str | None:
        """Make a waiting, discarded or cancelled job available now; None where there is none."""
        return self.database.run(calls.retry_job(job_id))

    def pause_queue(self, queue: str, by: str | None = None) -> datetime:
        """Stop claims from a queue; returns since when it is paused."""
        return self.database.run(calls.pause_queue(queue, by))

    def resume_queue(self, queue: str, by: str | None = None) -> bool:
        """End a pause; False where there was none."""
        return self.database.run(calls.resume_queue(queue, by))

    def limit_queue(
        self, queue: str, *, by: str | None = None, **limits: Unpack[QueueLimits]
    ) -> None:
        """Set what a queue lets through, over all workers; see :class:`QueueLimits`.

        A limit that is not named is removed. What runs goes on. A change is written to the audit
        trail, as done ``by`` somebody.

        Raises:
            InvalidArgument: if a limit is less than 1.
        """
        self.database.run(limit_queue(queue, limits, by))

    def weigh_tenant(self, queue: str, tenant: str, weight: int | None) -> None:
        """Give a tenant ``weight`` jobs a turn in a queue, from 1 to 100; None: 1, as all others.

        Raises:
            InvalidArgument: for another weight.
        """
        self.database.run(weigh_tenant(queue, tenant, weight))

    def retain_queue(self, queue: str, retention: Duration | None) -> None:
        """Keep a queue's ended jobs for so many seconds; None: as long as others', 7 days."""
        self.database.run(retain_queue(queue, retention))

    def reseal_jobs(self) -> int:
        """Encrypt the arguments of waiting jobs anew, with the first key; returns how many.

        Raises:
            SealedArguments: if some cannot be opened with any key; those before are done.
        """
        return self.database.drive(resealing())

    def batch(
        self,
        name: str,
        jobs: Iterable[NewJob],
        *,
        on_end: NewJob | None = None,
        on_completed: NewJob | None = None,
        within: Any = None,
    ) -> JobBatch:
        """Enqueue jobs that are counted together, in one transaction (``within``: the caller's).

        When the last of them has ended, the job ``on_end`` is enqueued, and where all of them
        completed ``on_completed``; once, in the transaction that ends the last. A handler adds
        to its batch by ``task.options(batch=current_job().job.batch)``.

        Raises:
            InvalidArgument: if one is not made by ``task.job(...)``.
        """
        batch: JobBatch = self.enqueuer.add_together(
            add_batch(name, jobs, on_end, on_completed, self.enqueuer.seen), within
        )
        return batch

    def chain(self, steps: Iterable[NewJob | Iterable[NewJob]], *, within: Any = None) -> list[int]:
        """Enqueue jobs of which each starts when the one before has completed; returns their ids.

        The jobs of an inner list run side by side, and the next step starts after all of them.

        Raises:
            InvalidArgument: if one is not made by ``task.job(...)``.
        """
        calls = add_chain(steps, self.enqueuer.seen)
        ids: list[int] = self.enqueuer.add_together(calls, within)
        return ids

    def batch_state(self, batch_id: int) -> BatchState | None:
        """How far a batch is; None where there is none."""
        return first(self.database.run(find_batch(batch_id)))


class AsyncQueues:
    """The queues of an asyncio coordinator; as :class:`Queues`, awaited."""

    database: AsyncDatabase
    enqueuer: AsyncEnqueuer

    async def job(self, job_id: int) -> JobState | None:
        """As :meth:`Queues.job`."""
        return first(await self.database.run(calls.find_job(job_id)))

    async def why_not_running(self, job_id: int) -> JobExplanation:
        """As :meth:`Queues.why_not_running`."""
        return await self.database.run(why_not_running(job_id))

    async def cancel_job(self, job_id: int, reason: str | None = None) -> str | None:
        """As :meth:`Queues.cancel_job`."""
        return await self.database.run(calls.cancel_job(job_id, reason))

    async def retry_job(self, job_id: int) -> str | None:
        """As :meth:`Queues.retry_job`."""
        return await self.database.run(calls.retry_job(job_id))

    async def pause_queue(self, queue: str, by: str | None = None) -> datetime:
        """As :meth:`Queues.pause_queue`."""
        return await self.database.run(calls.pause_queue(queue, by))

    async def resume_queue(self, queue: str, by: str | None = None) -> bool:
        """As :meth:`Queues.resume_queue`."""
        return await self.database.run(calls.resume_queue(queue, by))

    async def limit_queue(
        self, queue: str, *, by: str | None = None, **limits: Unpack[QueueLimits]
    ) -> None:
        """As :meth:`Queues.limit_queue`."""
        await self.database.run(limit_queue(queue, limits, by))

    async def weigh_tenant(self, queue: str, tenant: str, weight: int | None) -> None:
        """As :meth:`Queues.weigh_tenant`."""
        await self.database.run(weigh_tenant(queue, tenant, weight))

    async def retain_queue(self, queue: str, retention: Duration | None) -> None:
        """As :meth:`Queues.retain_queue`."""
        await self.database.run(retain_queue(queue, retention))

    async def reseal_jobs(self) -> int:
        """As :meth:`Queues.reseal_jobs`."""
        return await self.database.drive(resealing())

    async def batch(
        self,
        name: str,
        jobs: Iterable[NewJob],
        *,
        on_end: NewJob | None = None,
        on_completed: NewJob | None = None,
        within: Any = None,
    ) -> JobBatch:
        """As :meth:`Queues.batch`."""
        batch: JobBatch = await self.enqueuer.add_together(
            add_batch(name, jobs, on_end, on_completed, self.enqueuer.seen), within
        )
        return batch

    async def chain(
        self, steps: Iterable[NewJob | Iterable[NewJob]], *, within: Any = None
    ) -> list[int]:
        """As :meth:`Queues.chain`."""
        ids: list[int] = await self.enqueuer.add_together(
            add_chain(steps, self.enqueuer.seen), within
        )
        return ids

    async def batch_state(self, batch_id: int) -> BatchState | None:
        """As :meth:`Queues.batch_state`."""
        return first(await self.database.run(find_batch(batch_id)))
