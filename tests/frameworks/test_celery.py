"""Celery's manner on pgsync, beside Celery itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import psycopg
import pytest
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging

from pgsync import Coordinator, InvalidArgument
from pgsync.doors.celery import App, TaskFailed, shared_task
from pgsync.doors.results import TaskRevokedError
from tests.frameworks import celery_app


@contextmanager
def working(sync: Coordinator) -> Iterator[None]:
    """A worker of the queue ``celery`` in this process."""
    sync.start(queues=["celery"], concurrency=1)
    try:
        yield
    finally:
        sync.stop()


def leave_logging_alone(**_: Any) -> None:
    """What Celery asks to set up logging."""


@pytest.fixture
def app(sync: Coordinator) -> Iterator[App]:
    """The app of a test, which shared tasks of others do not see."""
    yield App(sync)
    App.current = None


def test_the_same_app_has_the_same_outcomes_on_celery_and_on_pgsync(app: App) -> None:
    real = celery.Celery("real", broker="memory://", backend="cache+memory://")
    tasks = celery_app.declare(real.task)
    # With a receiver of this signal, Celery leaves the process's root logger as it is.
    setup_logging.connect(leave_logging_alone)
    with start_worker(real, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        expected = celery_app.outcomes(tasks)
    with working(app.coordinator):
        mine = celery_app.outcomes(celery_app.declare(app.task))
    assert mine == expected
    assert mine[5] == ("FAILURE", ("Flaky", "still"), True, False, True)


def test_a_shared_task_belongs_to_the_app_that_there_is_or_will_be(sync: Coordinator) -> None:
    @shared_task
    def before(n: int) -> int:
        return n

    with pytest.raises(InvalidArgument, match=r"has no app yet: make one, App\(coordinator\)"):
        before.delay(1)
    app = App(sync)
    try:

        @shared_task(bind=True)
        def after(self: Any, n: int) -> str:
            return f"{self.request.id} {n}"

        first, second = before.delay(1), after.delay(2)
        sync.run_worker(queues=["celery"], drain=True)
        assert (first.get(1), second.get(1)) == (1, f"{second.id} 2")
        assert app.AsyncResult(first.id).result == 1
    finally:
        App.current = None


def test_a_call_may_wait_be_revoked_and_be_part_of_a_transaction(
    app: App, database: psycopg.Connection[Any]
) -> None:
    @app.task(queue="mail")
    def send(to: str) -> None: ...

    later = send.apply_async(["a"], eta=datetime.now(UTC) + timedelta(hours=1))
    assert (later.state, later.ready(), later.result) == ("PENDING", False, None)
    with pytest.raises(TimeoutError, match=r"has not ended after 0\.01 s"):
        later.get(timeout=0.01)
    later.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        later.get(timeout=5)
    with database.transaction(force_rollback=True):
        within = send.apply_async(["b"], within=database, priority=3, countdown=60)
        row = database.execute(
            "SELECT task, queue, priority, state, args FROM pgsync.jobs WHERE id = %s", [within.id]
        ).fetchone()
    args = {"args": ["b"], "kwargs": {}}
    assert row == (f"{__name__}.send", "mail", -3, "scheduled", args)
    assert within.state == "PENDING"  # as of a task that nobody knows
    assert app.result("no number").state == "PENDING"


def test_a_retry_waits_its_time(app: App) -> None:
    @app.task(autoretry_for=(OSError,), retry_backoff=100, retry_jitter=False)
    def fetch() -> None:
        raise OSError("away")

    result = fetch.delay()
    assert app.coordinator.run_worker(queues=["celery"], drain=True).retryable == 1
    job = app.coordinator.job(int(result.id))
    assert job is not None
    assert 95 < (job.run_at - datetime.now(UTC)).total_seconds() <= 100
    assert result.state == "RETRY"
    assert "raise OSError" in (result.traceback or "")


def test_a_failure_whose_class_is_not_loaded_is_told_in_words(
    app: App, database: psycopg.Connection[Any]
) -> None:
    @app.task(time_limit=0.05)
    def hang(event: str) -> None:
        threading.Event().wait(0.3)

    result = hang.delay("e")
    app.coordinator.run_worker(queues=["celery"], drain=True)
    with pytest.raises(TimeoutError, match=r"timed out after 0\.05 s"):
        result.get(timeout=5)
    database.execute(
        "UPDATE pgsync.job_finished SET errors = jsonb_set(errors, '{0,type}', '\"gone.Error\"')"
    )
    with pytest.raises(TaskFailed, match=r"JobTimedOut: timed out after 0\.05 s"):
        result.get(timeout=5)


def test_what_cannot_be_is_told(app: App) -> None:
    with pytest.raises(InvalidArgument, match="is a coroutine function"):

        @app.task
        async def awaited() -> None: ...

    @app.task(bind=True)
    def bound(self: Any) -> None:
        self.retry()

    with pytest.raises(InvalidArgument, match="does not run in a worker"):
        bound()
    with pytest.raises(InvalidArgument, match="time zone"):
        bound.apply_async(eta=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the fault
    with pytest.raises(InvalidArgument, match="must have a zone"):
        bound.apply_async(expires=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the fault
    with pytest.raises(TypeError):
        app.task(acks_late=True)(lambda: None)
