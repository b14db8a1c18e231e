"""Coroutine handlers share asyncio tasks while they do not wait: each must be as if alone."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from pgsync import Coordinator, current_job

pytestmark = pytest.mark.core

_seen: ContextVar[int | None] = ContextVar("seen", default=None)


def test_each_has_a_context_of_its_own_also_after_it_has_waited(sync: Coordinator) -> None:
    @sync.task()
    async def marks(n: int) -> list[Any]:
        before = _seen.get()
        _seen.set(n)
        if n % 3 == 0:
            await asyncio.sleep(0.001)
        job = current_job()
        assert job is not None
        return [before, _seen.get(), job.job.args["n"]]

    jobs = marks.enqueue_many({"n": n} for n in range(60))
    assert sync.run_worker(drain=True, concurrency=5).completed == 60
    found = map(sync.job, jobs)
    assert [job.result for job in found if job] == [[None, n, n] for n in range(60)]


def test_a_time_limit_inside_a_handler_meets_that_handler_alone(sync: Coordinator) -> None:
    @sync.task()
    async def bounded(n: int) -> str:
        try:
            async with asyncio.timeout(0.05 if n % 2 else 10):
                await asyncio.sleep(0.2 if n % 2 else 0)
        except TimeoutError:
            return "timed out"
        return "in time"

    jobs = bounded.enqueue_many({"n": n} for n in range(20))
    assert sync.run_worker(drain=True, concurrency=20).completed == 20
    results = [job.result for job in map(sync.job, jobs) if job]
    assert results == ["in time", "timed out"] * 10


def test_the_current_task_stays_the_same_and_is_no_other_waiting_handlers(
    sync: Coordinator,
) -> None:
    tasks: list[Any] = []

    @sync.task()
    async def waits() -> bool:
        mine = asyncio.current_task()
        tasks.append(mine)
        while len(tasks) < 4:  # noqa: ASYNC110 - several waits, not one
            await asyncio.sleep(0.001)
        return asyncio.current_task() is mine

    jobs = waits.enqueue_many([{}] * 4)
    assert sync.run_worker(drain=True, concurrency=4).completed == 4
    assert all(job and job.result for job in map(sync.job, jobs))
    assert len({id(task) for task in tasks}) == 4


def test_a_handler_that_cancels_its_own_task_takes_no_other_with_it(sync: Coordinator) -> None:
    @sync.task(max_attempts=1)
    async def ends(n: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if n % 2:
            task.cancel()
            await asyncio.sleep(1)
        return n

    ends.enqueue_many({"n": n} for n in range(20))
    report = sync.run_worker(drain=True, concurrency=3)
    assert (report.completed, report.discarded) == (10, 10)


def test_many_that_do_not_wait_leave_the_loop_its_turn(sync: Coordinator) -> None:
    """One that waits for a callback of the loop ends while thousands go on beside it."""
    ended_after: list[int] = []
    run = 0

    @sync.task()
    async def first() -> None:
        await asyncio.sleep(0)
        ended_after.append(run)

    @sync.task()
    async def short() -> None:
        nonlocal run
        run += 1
        until = asyncio.get_running_loop().time() + 0.0002
        while asyncio.get_running_loop().time() < until:
            pass

    first.enqueue()
    short.enqueue_many([{}] * 900)
    assert sync.run_worker(drain=True, concurrency=1000).completed == 901
    assert ended_after[0] < 900


def test_arguments_that_python_cannot_read_fail_their_own_job(
    sync: Coordinator, database: Any
) -> None:
    @sync.task()
    async def adds(n: int) -> int:
        return n

    for n in ("1", "9" * 5000, "2"):
        database.execute(
            "SELECT pgsync.enqueue('adds', jsonb_build_object('n', %s::numeric),"
            " max_attempts => 1)",
            [n],
        )
    report = sync.run_worker(drain=True)
    assert (report.completed, report.discarded) == (2, 1)


def test_times_beyond_pythons_years_are_told_as_its_last_and_first(
    sync: Coordinator, database: Any
) -> None:
    told: list[Any] = []

    @sync.task()
    async def tells() -> None:
        job = current_job()
        assert job is not None
        told.append(job.job.run_at)

    database.execute("SELECT pgsync.enqueue('tells', run_at => '-infinity')")
    assert sync.run_worker(drain=True).completed == 1
    assert told[0].year == 1
