"""Time limits: when an attempt has failed, and what a handler knows of it."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument, JobTimedOut, current_job
from tests.kernel.handlers import both_kinds, declare, go_on_until_told, state_of, working

pytestmark = pytest.mark.core


@both_kinds
def test_a_timeout_is_a_failed_attempt(sync: Coordinator, kind: str) -> None:
    ends, ended = threading.Event(), threading.Event()

    def blocking() -> str:
        ends.wait(20)
        ended.set()
        return "late"

    async def awaiting() -> None:
        await asyncio.Event().wait()

    handler = blocking if kind == "blocking" else awaiting
    job = declare(sync, kind, handler, timeout=0.2, backoff=3600).enqueue().id
    with working(sync):
        found = state_of(sync, job, "retryable")
        assert [(each["attempt"], each["error"]) for each in found.errors] == [
            (1, "JobTimedOut: timed out after 0.2 s")
        ]
        ends.set()
        if kind == "blocking":
            assert ended.wait(60)
    # Its late result changes nothing.
    again = sync.job(job)
    assert again is not None
    assert (again.state, again.attempt, again.result) == ("retryable", 1, None)


@both_kinds
def test_within_its_timeout_a_job_completes(sync: Coordinator, kind: str) -> None:
    seen: list[tuple[float, float]] = []

    def handler() -> str:
        context = current_job()
        assert context is not None
        assert context.deadline is not None
        assert context.deadline_at is not None
        left = context.deadline_at - datetime.now(UTC)
        seen.append((context.deadline - time.monotonic(), left.total_seconds()))
        context.check()
        return "fine"

    task = declare(sync, kind, handler, timeout=60)
    jobs = task.enqueue_many([{}] * 50)
    assert sync.run_worker(drain=True).completed == 50
    found = sync.job(jobs[0])
    assert found is not None
    assert found.result == "fine"
    assert all(50 < each <= 60 for pair in seen for each in pair)


def test_a_coroutine_that_will_not_be_cancelled_has_failed_all_the_same(sync: Coordinator) -> None:
    ends = threading.Event()

    async def stubborn() -> str:
        while not ends.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return "late"

    async def polite() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "made the best of it"
        return "never"

    options: dict[str, Any] = {"timeout": 0.1, "backoff": 3600}
    jobs = [
        declare(sync, "awaiting", each, name=each.__name__, **options).enqueue().id
        for each in (stubborn, polite)
    ]
    try:
        with working(sync, grace=1):
            for job in jobs:
                found = state_of(sync, job, "retryable")
                assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.1 s"
            ends.set()
    finally:
        ends.set()  # else a failure would leave it looping


def test_the_place_of_an_overdue_handler_is_not_free(sync: Coordinator) -> None:
    ends, ran = threading.Event(), threading.Event()
    stuck = declare(sync, "blocking", lambda: ends.wait(20), timeout=0.1, max_attempts=1)
    quick = declare(sync, "blocking", ran.set, name="quick")
    with working(sync, concurrency=1):
        first = stuck.enqueue().id
        state_of(sync, first, "discarded")
        second = quick.enqueue().id
        # Longer than a worker's pause between two polls.
        assert not ran.wait(1.5)
        found = sync.job(second)
        assert found is not None
        assert found.state == "available"
        ends.set()
        state_of(sync, second, "completed")


def test_check_raises_at_the_deadline(sync: Coordinator) -> None:
    began, told = threading.Event(), threading.Event()
    go_on = go_on_until_told(began, "blocking")

    def handler() -> None:
        try:
            go_on()
        except JobTimedOut:
            told.set()
            raise

    job = declare(sync, "blocking", handler, timeout=0.2, max_attempts=1).enqueue().id
    with working(sync):
        assert told.wait(60)
        found = state_of(sync, job, "discarded")
    assert len(found.errors) == 1
    assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.2 s"


@both_kinds
def test_a_second_attempt_may_follow_one_that_still_runs(sync: Coordinator, kind: str) -> None:
    ends = threading.Event()
    attempts: list[int] = []

    def blocking() -> str:
        context = current_job()
        assert context is not None
        attempts.append(context.attempt)
        if context.attempt == 1:
            ends.wait(20)
        return f"attempt {context.attempt}"

    async def awaiting() -> str:
        context = current_job()
        assert context is not None
        attempts.append(context.attempt)
        if context.attempt == 1:
            await asyncio.Event().wait()
        return f"attempt {context.attempt}"

    handler = blocking if kind == "blocking" else awaiting
    job = declare(sync, kind, handler, timeout=0.3, backoff=0).enqueue().id
    with working(sync):
        assert state_of(sync, job, "completed").result == "attempt 2"
        ends.set()
    assert attempts == [1, 2]


def test_an_impossible_timeout_is_refused(sync: Coordinator) -> None:
    for timeout in (0, -1, float("inf"), "5"):
        with pytest.raises(InvalidArgument, match="timeout"):
            declare(sync, "blocking", lambda: None, timeout=timeout)
