"""Helpers for the tests of applications: real jobs on a real database, no stand-in.

Each takes a coordinator of either face. What returns a value is awaited where that is an
AsyncCoordinator; :func:`frozen_time` is a plain ``with`` on both.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, overload

import psycopg

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.daemon import WorkerReport
from pgsync.daemon.worker import Worker
from pgsync.database.calls import Steps
from pgsync.database.drive import drive
from pgsync.database.dsn import connect, masked
from pgsync.database.pool import execute
from pgsync.errors import InvalidArgument
from pgsync.queues import (
    AsyncTask,
    CancelJob,
    Enqueued,
    JobState,
    NewJob,
    ReleaseJob,
    Task,
    TaskRegistry,
    current_job,
)
from pgsync.queues.calls import find_job, live_jobs
from pgsync.schedules import declare_plan, fire_due_plan

__all__ = [
    "TEST_MARK",
    "FrozenTime",
    "assert_enqueued",
    "assert_not_enqueued",
    "drain",
    "enqueued",
    "fire_schedules",
    "frozen_time",
    "inline",
]

AnyTask: TypeAlias = Task[..., Any] | AsyncTask[..., Any] | str

TEST_MARK = "pgsync: for tests"
"""The comment of a database that tests may change: ``COMMENT ON DATABASE x IS '...'``."""


@overload
def drain(sync: Coordinator, queues: Sequence[str] | None = None) -> WorkerReport: ...
@overload
def drain(
    sync: AsyncCoordinator, queues: Sequence[str] | None = None
) -> Coroutine[Any, Any, WorkerReport]: ...
def drain(sync: Coordinator | AsyncCoordinator, queues: Sequence[str] | None = None) -> Any:
    """Perform what is available, of these queues or of all, until nothing is; report it.

    A failed job that is to be retried later is left for later.
    """
    return sync.run_worker(queues=queues or ["*"], drain=True)


@overload
def fire_schedules(sync: Coordinator) -> int: ...
@overload
def fire_schedules(sync: AsyncCoordinator) -> Coroutine[Any, Any, int]: ...
def fire_schedules(sync: Coordinator | AsyncCoordinator) -> Any:
    """Enqueue what the schedules of ``sync`` have due by the database's time; says how many jobs.

    The first call declares them, as a daemon does when it starts: due is what comes after that.
    """
    if isinstance(sync, AsyncCoordinator):
        return asyncio.to_thread(_fire, sync)
    return _fire(sync)


def _fire(sync: Coordinator | AsyncCoordinator) -> int:
    with connect(sync.direct_dsn, "pgsync testing") as connection, connection.transaction():
        run = functools.partial(execute, connection)
        drive(declare_plan(tuple(sync.schedules.values()), sync.app), run)
        return drive(fire_due_plan(), run)[1]


@overload
def enqueued(
    sync: Coordinator, task: AnyTask | None = None, queue: str | None = None, **args: Any
) -> list[JobState]: ...
@overload
def enqueued(
    sync: AsyncCoordinator, task: AnyTask | None = None, queue: str | None = None, **args: Any
) -> Coroutine[Any, Any, list[JobState]]: ...
def enqueued(
    sync: Coordinator | AsyncCoordinator,
    task: AnyTask | None = None,
    queue: str | None = None,
    **args: Any,
) -> Any:
    """The jobs that have not ended, of this task and queue, whose arguments include ``args``."""
    name = task if isinstance(task, str) or task is None else task.name
    return sync.database.run(live_jobs(name, queue, args))


@overload
def assert_enqueued(
    sync: Coordinator, task: AnyTask, count: int | None = None, **args: Any
) -> None: ...
@overload
def assert_enqueued(
    sync: AsyncCoordinator, task: AnyTask, count: int | None = None, **args: Any
) -> Coroutine[Any, Any, None]: ...
def assert_enqueued(
    sync: Coordinator | AsyncCoordinator, task: AnyTask, count: int | None = None, **args: Any
) -> Any:
    """Fail unless such a job waits or runs, or exactly ``count`` of them.

    Raises:
        AssertionError: that shows what is enqueued instead.
    """
    return sync.database.drive(_check(task, count, args))


@overload
def assert_not_enqueued(sync: Coordinator, task: AnyTask, **args: Any) -> None: ...
@overload
def assert_not_enqueued(
    sync: AsyncCoordinator, task: AnyTask, **args: Any
) -> Coroutine[Any, Any, None]: ...
def assert_not_enqueued(sync: Coordinator | AsyncCoordinator, task: AnyTask, **args: Any) -> Any:
    """Fail if such a job waits or runs."""
    return sync.database.drive(_check(task, 0, args))


def _check(task: AnyTask, count: int | None, args: dict[str, Any]) -> Steps[None]:
    name = task if isinstance(task, str) else task.name
    found = yield from live_jobs(name, None, args)
    if len(found) == count or (count is None and found):
        return
    others = yield from live_jobs(None, None, {})
    wanted = "at least one job" if count is None else f"{count} jobs"
    lines = [f"  {job.task}({job.args}) on queue {job.queue}, {job.state}" for job in others[:20]]
    more = [f"  and {len(others) - 20} more"] if len(others) > 20 else []
    raise AssertionError(
        "\n".join(
            [
                f"expected {wanted} of {name} with {args}, found {len(found)}; enqueued are:",
                *(lines or ["  none"]),
                *more,
            ]
        )
    )


@contextmanager
def inline(sync: Coordinator | AsyncCoordinator) -> Iterator[None]:
    """Inside, ``task.enqueue(...)`` performs the job at once and raises its handler's error.

    It goes through the queue: the job is committed, claimed and recorded, and what waited in its
    queue is performed too. Left to the queue are jobs that are not due, those of ``enqueue_many``,
    and those enqueued ``within`` a transaction, which does not commit here. Plain ``with`` on both
    faces; use it in one thread at a time.
    """
    enqueuer: Any = sync.enqueuer
    database: Any = sync.database
    usual = enqueuer.add

    def add(job: NewJob, within: Any = None) -> Enqueued:
        answer: Enqueued = usual(job, within)
        if within is None and answer.added:
            (job_state,) = database.run(find_job(answer.id))
            # In a thread of its own: the caller's may have an event loop that runs.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, _perform(sync, job_state)).result()
        return answer

    async def add_async(job: NewJob, within: Any = None) -> Enqueued:
        answer: Enqueued = await usual(job, within)
        if within is None and answer.added:
            (job_state,) = await database.run(find_job(answer.id))
            await _perform(sync, job_state)
        return answer

    enqueuer.add = add if isinstance(sync, Coordinator) else add_async
    try:
        yield
    finally:
        del enqueuer.add


async def _perform(sync: Coordinator | AsyncCoordinator, job: JobState) -> None:
    errors: dict[int, BaseException] = {}
    tasks = TaskRegistry()
    for task in sync.tasks:
        tasks.add(replace(task, function=_watched(task.function, errors)))
    await Worker(sync.direct_dsn, tasks, queues=[job.queue], drain=True).run()
    error = errors.get(job.id)
    # These two are a handler's way to say what becomes of its job, and no failure.
    if error is not None and not isinstance(error, ReleaseJob | CancelJob):
        raise error


def _watched(function: Callable[..., Any], errors: dict[int, BaseException]) -> Callable[..., Any]:
    """The handler, whose errors are kept by job."""

    def keep(error: BaseException) -> None:
        job = current_job()
        if job is not None:
            errors[job.id] = error

    @functools.wraps(function)
    def blocking(**args: Any) -> Any:
        try:
            return function(**args)
        except BaseException as error:
            keep(error)
            raise

    @functools.wraps(function)
    async def awaited(**args: Any) -> Any:
        try:
            return await function(**args)
        except BaseException as error:
            keep(error)
            raise

    return awaited if inspect.iscoroutinefunction(function) else blocking


class FrozenTime:
    """The time of a test's database, which stands still between moves."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        now: datetime,
        sync: Coordinator | AsyncCoordinator,
    ) -> None:
        self._connection = connection
        self._sync = sync
        self.now = now

    def move(self, seconds: float) -> datetime:
        """Let ``seconds`` pass, and return the new time."""
        return self.set(self.now + timedelta(seconds=seconds))

    def set(self, now: datetime) -> datetime:
        """Make it ``now``, an aware datetime."""
        self._connection.execute("UPDATE pgsync.frozen_time SET now = %s", [_aware(now)])
        self._sync.limit_exchange.forget()  # Which reckons by the real clock.
        self.now = now
        return now


@contextmanager
def frozen_time(sync: Coordinator | AsyncCoordinator, at: datetime) -> Iterator[FrozenTime]:
    """Set ``pgsync.clock()`` of the whole database to ``at``, an aware datetime, until the end.

    Locks' deadlines in the holder's process and sleeps go by the real clock. The database must be
    marked for tests, since a function of its schema is replaced: by the comment :data:`TEST_MARK`,
    or for this process by ``PGSYNC_TESTING=1``.

    Raises:
        InvalidArgument: if it is not marked, or ``at`` has no time zone.
    """
    _aware(at)
    with connect(sync.direct_dsn, "pgsync testing") as connection:
        _refuse_unmarked(connection, sync.direct_dsn)
        connection.execute("CREATE TABLE IF NOT EXISTS pgsync.frozen_time (now timestamptz)")
        connection.execute("TRUNCATE pgsync.frozen_time")
        connection.execute("INSERT INTO pgsync.frozen_time VALUES (%s)", [at])
        connection.execute(
            "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
            " RETURN (SELECT f.now FROM pgsync.frozen_time AS f)"
        )
        try:
            yield FrozenTime(connection, at, sync)
        finally:
            connection.execute(
                "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz LANGUAGE sql"
                " VOLATILE PARALLEL SAFE RETURN clock_timestamp()"
            )
            connection.execute("DROP TABLE pgsync.frozen_time")


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise InvalidArgument(
            "the time must have a time zone, for example datetime(..., tzinfo=UTC)"
        )
    return moment


def _refuse_unmarked(connection: psycopg.Connection[Any], dsn: str) -> None:
    if os.environ.get("PGSYNC_TESTING") == "1":
        return
    comment = connection.execute(
        "SELECT shobj_description(d.oid, 'pg_database') FROM pg_database AS d"
        " WHERE d.datname = current_database()"
    ).fetchone()
    if comment != (TEST_MARK,):
        raise InvalidArgument(
            f"{masked(dsn)} is not marked for tests, and its clock is not to be replaced; if it is "
            f"a test's, run COMMENT ON DATABASE ... IS '{TEST_MARK}' or set PGSYNC_TESTING=1"
        )
