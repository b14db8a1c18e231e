"""Handlers: what their context tells them, time limits, what failures lead to, and middleware."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument, JobTimedOut, ReleaseJob, current_job
from tests.eventually import eventually

pytestmark = pytest.mark.core

both_kinds = pytest.mark.parametrize("kind", ["blocking", "awaiting"])


def declare(sync: Coordinator, kind: str, function: Any, **options: Any) -> Any:
    """Declare ``function``, a blocking one, or for the other kind a coroutine that does the same
    and awaits what it returns where that can be."""
    name = options.pop("name", "handler")
    if kind == "blocking":
        return sync.task(name=name, **options)(lambda: function())

    async def awaiting() -> Any:
        outcome = function()
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    return sync.task(name=name, **options)(awaiting)


def state_of(sync: Coordinator, job: int, wanted: str) -> Any:
    """The job, once it is in that state."""
    return eventually(lambda: (found := sync.job(job)) and found.state == wanted and found)


@contextmanager
def working(sync: Coordinator, **options: Any) -> Iterator[None]:
    sync.start(**options)
    try:
        yield
    finally:
        sync.stop()


def go_on_until_told(began: threading.Event, kind: str) -> Any:
    """A handler that works until its context has it end."""

    def blocking() -> None:
        context = current_job()
        assert context is not None
        began.set()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            context.check()
            time.sleep(0.005)

    async def awaiting() -> None:
        context = current_job()
        assert context is not None
        began.set()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            context.check()
            await asyncio.sleep(0.005)

    return blocking if kind == "blocking" else awaiting


@both_kinds
def test_a_stopping_worker_tells_its_handlers(sync: Coordinator, kind: str) -> None:
    began = threading.Event()
    job = declare(sync, kind, go_on_until_told(began, kind)).enqueue().id
    sync.start(grace=15)
    assert began.wait(10)
    stopped_at = time.monotonic()
    sync.stop()
    assert time.monotonic() - stopped_at < 10
    found = sync.job(job)
    assert found is not None
    # Scheduled is what a release leaves; what the grace ends is available.
    assert (found.state, found.attempt) in [("scheduled", 0), ("available", 0)]


def test_a_cancelled_handler_is_told_by_its_check(sync: Coordinator) -> None:
    began = threading.Event()
    job = declare(sync, "blocking", go_on_until_told(began, "blocking")).enqueue().id
    with working(sync):
        assert began.wait(10)
        assert sync.cancel_job(job) == "running"
        assert state_of(sync, job, "cancelled").result == {"reason": "cancelled while it ran"}


def test_an_operation_that_releases_itself_is_recorded_as_released(
    sync: Coordinator, database: Any
) -> None:
    @sync.operation("later", lock="later", ttl=60)
    def later(run: Any) -> None:
        raise ReleaseJob(60, "not yet")

    job = later.enqueue().id
    assert sync.run_worker(drain=True).released == 1
    runs = database.execute("SELECT state, job_id FROM pgsync.operations").fetchall()
    assert runs == [("released", job)]


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
            assert ended.wait(10)
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
    with working(sync):
        for job in jobs:
            found = state_of(sync, job, "retryable")
            assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.1 s"
        ends.set()


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
        assert told.wait(10)
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
