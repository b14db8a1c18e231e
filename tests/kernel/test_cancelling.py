"""What ends a handler early: a worker that stops, a request to cancel, itself."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pgsync import Coordinator, ReleaseJob
from tests.eventually import eventually
from tests.kernel.handlers import both_kinds, declare, go_on_until_told, state_of, working

pytestmark = pytest.mark.core


@both_kinds
def test_a_stopping_worker_tells_its_handlers(sync: Coordinator, kind: str) -> None:
    began = threading.Event()
    job = declare(sync, kind, go_on_until_told(began, kind)).enqueue().id
    sync.start(grace=15)
    assert began.wait(30)
    stopped_at = time.monotonic()
    sync.stop()
    assert time.monotonic() - stopped_at < 10
    found = sync.job(job)
    assert found is not None
    # Long before the grace: it ended itself. Released, it is due at once, and promoted if in time.
    assert (found.state, found.attempt) in [("scheduled", 0), ("available", 0)]


def test_a_cancelled_handler_is_told_by_its_check(sync: Coordinator) -> None:
    began = threading.Event()
    job = declare(sync, "blocking", go_on_until_told(began, "blocking")).enqueue().id
    with working(sync):
        assert began.wait(30)
        assert sync.cancel_job(job) == "running"
        assert state_of(sync, job, "cancelled").result == {"reason": "cancelled while it ran"}


_LISTENS = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
    " AND application_name = 'pgsync listener' AND query LIKE 'LISTEN%proof%'"
)


@both_kinds
def test_a_request_to_cancel_is_heard_before_the_next_heartbeat(
    sync: Coordinator, database: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsync.daemon.worker._HEARTBEAT_SECONDS", 3600.0)
    began = threading.Event()
    job = declare(sync, kind, go_on_until_told(began, kind)).enqueue().id
    with working(sync):
        assert began.wait(30)
        eventually(lambda: database.execute(_LISTENS).fetchall())
        sync.cancel_job(job)
        state_of(sync, job, "cancelled")


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
