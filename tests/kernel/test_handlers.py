"""Handlers: what their context tells them, time limits, what failures lead to, and middleware."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgsync import Coordinator, ReleaseJob, current_job
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
