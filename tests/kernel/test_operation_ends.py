"""How operations end otherwise than well: who is told, who gave up, who cancelled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgsync import CancelJob, InvalidArgument, Limit, OperationBlocked, RateLimited
from tests.eventually import eventually
from tests.kernel.test_operations import KEY, declare, history

pytestmark = pytest.mark.core


def told(face: Any) -> list[Any]:
    """The failures that its callback is told of."""
    failures: list[Any] = []
    face.on_operation_failure(failures.append)
    return failures


def test_a_failure_is_told_once_of_a_direct_call(face: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    failures, own = told(face), []
    sync = declare(face, fails, on_failure=own.append)
    other = declare(face, fails, name="other")
    with pytest.raises(ValueError, match="said no"):
        sync.by("ada")(connection_id=7)
    (failure,) = failures
    assert own == [failure]
    assert (failure.operation, failure.key, failure.args) == (
        "template_sync",
        KEY,
        {"connection_id": 7},
    )
    assert (failure.actor, str(failure.error), failure.job_id) == ("ada", "upstream said no", None)
    with pytest.raises(ValueError, match="said no"):
        other(connection_id=7)
    assert ([f.operation for f in failures], len(own)) == (["template_sync", "other"], 1)


def test_a_refused_run_is_no_failure(new_face: Any) -> None:
    first, second = new_face(), new_face()
    failures = told(second)
    sync = declare(second, lambda op, connection_id: None, limit=Limit(1, per=3600))
    with first.lock(KEY, ttl=60), pytest.raises(OperationBlocked):
        sync(connection_id=7)
    sync(connection_id=7)
    with pytest.raises(RateLimited):
        sync(connection_id=7)
    assert failures == []


def test_a_queued_failure_is_told_when_it_is_given_up_and_by_whom_it_was_started(
    face: Any, database: Any
) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    failures = told(face)
    sync = declare(face, fails, max_attempts=2, backoff=[100])
    job = sync.by("ada").enqueue(connection_id=7)
    face.run_worker(drain=True)
    assert failures == []
    database.execute("UPDATE pgsync.job_scheduled SET run_at = now()")
    face.run_worker(drain=True)
    (failure,) = failures
    assert (failure.actor, failure.job_id, failure.attempts) == ("ada", job.id, 2)
    assert (failure.args, str(failure.error)) == ({"connection_id": 7}, "upstream said no")
    actors = database.execute("SELECT DISTINCT actor FROM pgsync.operations").fetchall()
    assert actors == [("ada",)]


def test_a_failure_with_the_worker_is_told_by_another(
    sync: Any, database: Any, new_worker: Any
) -> None:
    failures = told(sync)
    operation = declare(sync, lambda op, connection_id: None, max_attempts=1)
    job = operation.by("ada").enqueue(connection_id=7)
    session, worker = new_worker()
    session.execute("SELECT FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    session.close()
    eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone()[0])
    sync.start()
    try:
        eventually(lambda: failures)
        eventually(lambda: not database.execute("SELECT FROM pgsync.job_untold_discard").fetchall())
    finally:
        sync.stop()
    (failure,) = failures
    assert (failure.key, failure.actor, failure.job_id) == (KEY, "ada", job.id)


def test_a_run_that_somebody_gives_up_has_failed(face: Any, database: Any) -> None:
    failures = told(face)
    job = declare(face, lambda op, connection_id: None).by("ada").enqueue(connection_id=7)
    database.execute("SELECT pgsync.discard_jobs(ids => ARRAY[%s], by => 'bob')", [job.id])
    face.start()
    try:
        eventually(lambda: failures)
    finally:
        face.stop()
    (failure,) = failures
    assert (failure.key, failure.actor, failure.job_id, failure.attempts) == (KEY, "ada", job.id, 0)
    assert repr(failure.error) == "JobDiscarded('discarded by bob')"


def test_an_error_in_the_callback_hides_nothing(face: Any, caplog: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    @face.on_operation_failure
    def faulty(failure: Any) -> None:
        raise KeyError("the mail server")

    failures = told(face)
    with pytest.raises(ValueError, match="said no"):
        declare(face, fails)(connection_id=7)
    assert len(failures) == 1
    assert f"on_failure of operation {KEY} failed" in caplog.text


def test_a_callback_that_cannot_be_called_is_refused(sync: Any) -> None:
    async def coroutine(failure: Any) -> None: ...

    for callback in (7, coroutine):
        with pytest.raises(InvalidArgument, match="on_failure"):
            sync.on_operation_failure(callback)


def test_who_listens_hears_of_a_failure(sync: Any, database: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    database.execute("LISTEN pgsync_operations")
    operation = declare(sync, fails)
    with pytest.raises(ValueError, match="said no"):
        operation(connection_id=7)
    (heard,) = database.notifies(timeout=30, stop_after=1)
    assert json.loads(heard.payload) == {
        "run": operation.status(connection_id=7).id,
        "operation": "template_sync",
        "key": KEY,
        "state": "failed",
    }


def test_a_run_that_lost_its_process_is_given_up_by_the_maintenance(
    sync: Any, database: Any
) -> None:
    database.execute("LISTEN pgsync_operations")
    database.execute(
        "SELECT pgsync.begin_operation('template_sync', %s, '{}', 'gone', NULL, %s, 1)", [KEY, KEY]
    )
    seen: list[int] = []

    def work(op: Any, connection_id: int) -> None:
        seen.append(database.execute("SELECT pgsync.abandon_operations()").fetchone()[0])

    # One that runs is left alone.
    declare(sync, work, lock="other:{connection_id}")(connection_id=7)
    assert seen == [1]
    assert [row[0] for row in history(database)] == ["abandoned", "completed"]
    (heard,) = database.notifies(timeout=30, stop_after=1)
    assert json.loads(heard.payload)["state"] == "abandoned"


def test_a_cancelled_run_says_by_whom(face: Any, database: Any) -> None:
    def work(op: Any, connection_id: int) -> None:
        answer = database.execute("SELECT pgsync.cancel_operation(%s, 'bob')", [op.id]).fetchone()
        assert answer == ("running",)
        raise CancelJob("cancelled while it ran")

    failures = told(face)
    job = declare(face, work).by("ada").enqueue(connection_id=7)
    assert face.run_worker(drain=True).cancelled == 1
    assert face.job(job.id).state == "cancelled"
    (state, _, error, _) = history(database)[0]
    assert (state, failures) == ("cancelled", [])
    assert "cancelled while it ran" in error
    detail = database.execute(
        "SELECT detail FROM pgsync.operation_events WHERE event = 'cancel_requested'"
    ).fetchone()
    assert detail == ({"by": "bob"},)
    audit = database.execute("SELECT action, actor FROM pgsync.audit").fetchall()
    assert audit == [("operation.cancelled", "bob")]
    again = database.execute("SELECT pgsync.cancel_operation(max(id)) FROM pgsync.operations")
    assert again.fetchone() == (None,)


def test_a_run_that_is_started_once_more_names_who_did_so_and_takes_the_same_turn(
    face: Any, database: Any
) -> None:
    operation = declare(
        face,
        lambda op, connection_id: op.actor,
        tenant="tenant:{connection_id}",
        key="of:{connection_id}",
        max_running_per_key=2,
        max_attempts=3,
    )
    operation.by("ada").enqueue(connection_id=7)
    face.run_worker(drain=True)
    restart = "SELECT pgsync.restart_operation(max(id), by => %s) FROM pgsync.operations"
    job = database.execute(restart, ["bob"]).fetchone()[0]
    columns = "SELECT key, key_limit, tenant, max_attempts FROM pgsync.job_ready WHERE id = %s"
    assert database.execute(columns, [job]).fetchone() == ("of:7", 2, "tenant:7", 3)
    face.run_worker(drain=True)
    runs = database.execute("SELECT actor, args FROM pgsync.operations ORDER BY id").fetchall()
    assert runs == [("ada", {"connection_id": 7}), ("bob", {"connection_id": 7})]
    assert face.job(job).result == "bob"
    # Of another key's job no turn is taken over, and nobody is named where nobody was.
    operation(connection_id=8)
    job = database.execute(restart, [None]).fetchone()[0]
    assert database.execute(columns, [job]).fetchone() == (None, None, None, 3)
    assert face.job(job).args == {"connection_id": 8}
