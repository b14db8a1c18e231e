"""Jobs that belong together: batches with callbacks, and chains."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, TypeAlias

from pgsync.database.calls import Call, Copy, Listing, Row, in_utc, scalar
from pgsync.database.json import to_json
from pgsync.errors import InvalidArgument
from pgsync.queues.calls import Enqueued, JobOptions, add_job
from pgsync.queues.copying import CHUNK, add_chunk

__all__ = [
    "BatchState",
    "Enqueuing",
    "JobBatch",
    "NewJob",
    "Seen",
    "add_batch",
    "add_chain",
    "add_each",
    "find_batch",
    "job_ids",
]

Enqueuing: TypeAlias = Generator[Call[Any] | Copy, Any, Any]
"""Calls to be made one after another in one transaction."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is not enqueued yet: ``task.job(...)`` makes it, for batches and chains."""

    task: str
    args: dict[str, Any]
    options: JobOptions


Seen: TypeAlias = Callable[[NewJob], NewJob]
"""What middleware makes of a job before it is enqueued."""


@dataclass(frozen=True, slots=True)
class JobBatch:
    """A batch that was enqueued: its number, and its jobs in the order in which they were given.

    Where another job had a job's unique key, that one's id is in its place, and is not counted.
    """

    id: int
    jobs: list[int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as the view ``pgsync.job_batches`` shows it.

    ``state`` is ``filling``, ``running`` or ``ended``; ``progress`` is from 0 to 1; ``callbacks``
    are the jobs that were enqueued at its end.
    """

    id: int
    name: str
    state: str
    total: int
    completed: int
    discarded: int
    cancelled: int
    unfinished: int
    progress: float
    created_at: datetime
    ended_at: datetime | None
    callbacks: list[int]


def add_batch(
    name: str,
    jobs: Iterable[NewJob],
    on_end: NewJob | None,
    on_completed: NewJob | None,
    seen: Seen,
) -> Enqueuing:
    """Make a batch of jobs, with what is to be enqueued when they have ended."""
    batch = yield Call(
        "SELECT pgsync.new_batch(%(name)s, %(on_end)s::jsonb, %(on_completed)s::jsonb)",
        {
            "name": name,
            "on_end": _callback(on_end, "on_end", seen),
            "on_completed": _callback(on_completed, "on_completed", seen),
        },
        scalar,
    )
    ids = yield from add_each(jobs, seen, batch=batch)
    yield Call("SELECT pgsync.seal_batch(%(batch)s)", {"batch": batch}, scalar)
    return JobBatch(batch, ids)


def _callback(job: NewJob | None, option: str, seen: Seen) -> str | None:
    if job is None:
        return None
    job = seen(_checked(job, option))
    options = job.options
    if options != JobOptions(options.queue, options.priority, max_attempts=options.max_attempts):
        raise InvalidArgument(f"{option} can have a queue, a priority and max_attempts only")
    said = {
        "task": job.task,
        "args": job.args,
        "queue": options.queue,
        "priority": options.priority,
        "max_attempts": options.max_attempts,
    }
    return to_json(said, f"the arguments of {job.task}")


def _checked(job: Any, what: str) -> NewJob:
    if not isinstance(job, NewJob):
        raise InvalidArgument(f"{what} takes jobs made by task.job(...), not {job!r}")
    return job


def add_chain(steps: Iterable[NewJob | Iterable[NewJob]], seen: Seen) -> Enqueuing:
    """Enqueue jobs that run one after another; those of an inner list run side by side."""
    ids: list[list[int]] = []
    for step in steps:
        jobs = [step] if isinstance(step, NewJob) else list(step)
        if not jobs:
            raise InvalidArgument("a step of a chain needs a job")
        ids.append((yield from add_each(jobs, seen, after=ids[-1] if ids else None)))
    return [job for step in ids for job in step]


def add_each(
    jobs: Iterable[NewJob],
    seen: Seen,
    *,
    batch: int | None = None,
    after: list[int] | None = None,
) -> Generator[Call[Any] | Copy, Any, list[int]]:
    """Enqueue jobs, those of one task and the same options that follow each other in few calls."""
    ids: list[int] = []
    to_add = (seen(_checked(job, "a batch or chain")) for job in jobs)
    for _, same in groupby(to_add, key=attrgetter("task", "options")):
        while chunk := list(islice(same, CHUNK)):
            options = chunk[0].options
            if batch is not None:
                options = replace(options, batch=batch)
            if after is not None:
                options = replace(options, after=[*(options.after or ()), *after])
            if options.unique is None and options.unique_key is None:
                ids += yield from add_chunk(chunk[0].task, [job.args for job in chunk], options)
            else:
                for job in chunk:
                    ids.append((yield add_job(job.task, job.args, options)).id)
    return ids


def job_ids(jobs: int | Enqueued | Sequence[int | Enqueued]) -> list[int]:
    """The ids of jobs that were enqueued.

    Raises:
        InvalidArgument: if one is neither an id nor what enqueue() returned.
    """
    given = jobs if isinstance(jobs, Sequence) else [jobs]
    ids = [job.id if isinstance(job, Enqueued) else job for job in given]
    for job_id in ids:
        if not isinstance(job_id, int) or isinstance(job_id, bool):
            raise InvalidArgument(
                f"after takes ids of jobs, or what enqueue() gave; not {job_id!r}"
            )
    return ids


def find_batch(id: int) -> Listing[BatchState]:
    """The batch; an empty list where there is none."""
    return Listing(
        "SELECT b.id, b.name, b.state, b.total, b.completed, b.discarded, b.cancelled,"
        " b.unfinished, b.progress::float8, b.created_at, b.ended_at, b.callbacks"
        " FROM pgsync.job_batches AS b WHERE b.id = %(id)s::bigint",
        {"id": id},
        _state,
    )


def _state(row: Row) -> BatchState:
    return BatchState(*in_utc(row))
