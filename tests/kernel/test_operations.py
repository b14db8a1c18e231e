"""Operations: what runs, what is refused, and the record of both."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgsync import (
    InvalidArgument,
    Limit,
    LockLost,
    OperationBlocked,
    RateLimited,
    Release,
)
from tests.eventually import eventually

pytestmark = pytest.mark.core

KEY = "template_sync:connection:7"
MESSAGE = "Template sync is already in progress"


def declare(
    face: Any, function: Callable[..., Any], name: str = "template_sync", **given: Any
) -> Any:
    """Declare an operation of either face; ``function`` is a blocking handler."""
    options: dict[str, Any] = {
        "lock": "template_sync:connection:{connection_id}",
        "ttl": 300,
        "blocked": MESSAGE,
        **given,
    }
    if hasattr(face, "wrapped"):

        async def handler(op: Any, connection_id: int) -> Any:
            return function(op, connection_id)

        return face.operation(name, **options)(handler)
    return face.operation(name, **options)(function)


def history(database: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT state, key, error, blocked_by FROM pgsync.operations ORDER BY id"
    ).fetchall()
    return rows


def events(database: Any) -> list[str]:
    return [r[0] for r in database.execute("SELECT event FROM pgsync.operation_events ORDER BY id")]


def test_a_run_is_recorded_with_its_outcome(face: Any, database: Any) -> None:
    sync = declare(face, lambda op, connection_id: {"created": connection_id})
    assert sync.by("ada")(connection_id=7) == {"created": 7}
    state = sync.status(connection_id=7)
    assert (state.state, state.key, state.actor, state.outcome) == (
        "completed",
        KEY,
        "ada",
        {"created": 7},
    )
    assert state.finished_at >= state.requested_at
    assert face.status_of("template_sync", KEY).id == state.id
    assert face.status_of("template_sync", "another") is None
    assert events(database) == ["running", "completed"]
    assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)


def test_a_failure_is_recorded_and_raised(face: Any, database: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    with pytest.raises(ValueError, match="upstream said no"):
        declare(face, fails)(connection_id=7)
    assert history(database) == [("failed", KEY, "ValueError: upstream said no", None)]
    assert events(database) == ["running", "failed"]


def test_words_that_postgres_cannot_store_do_not_hide_the_failure(face: Any, database: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("a\0b\ud800")

    with pytest.raises(ValueError, match="a\0b"):
        declare(face, fails)(connection_id=7)
    assert history(database)[0][0] == "failed"


def test_a_result_that_json_cannot_say_is_a_failure(face: Any, database: Any) -> None:
    with pytest.raises(InvalidArgument, match="result of operation"):
        declare(face, lambda op, connection_id: {1, 2})(connection_id=7)
    assert history(database)[0][0] == "failed"


def test_a_blocked_run_is_refused_word_for_word(new_face: Any, database: Any) -> None:
    first, second = new_face(), new_face()
    sync = declare(second, lambda op, connection_id: None)
    with first.lock(KEY, ttl=60, owner="the other one"), pytest.raises(OperationBlocked) as caught:
        sync(connection_id=7)
    assert str(caught.value) == MESSAGE
    assert (caught.value.holder, caught.value.key) == ("the other one", KEY)
    assert history(database) == [("blocked", KEY, MESSAGE, "the other one")]
    assert events(database) == ["blocked"]


def test_a_run_beyond_the_limit_is_recorded_as_limited(face: Any, database: Any) -> None:
    sync = declare(
        face,
        lambda op, connection_id: None,
        limit=Limit(1, per=60),
        limited="At most {max} in {per} seconds",
    )
    sync(connection_id=7)
    with pytest.raises(RateLimited, match="At most 1 in 60 seconds") as caught:
        sync(connection_id=7)
    assert 0 < caught.value.retry_after <= 60
    assert [row[0] for row in history(database)] == ["completed", "limited"]
    assert events(database) == ["running", "completed", "running", "limited"]
    sync(connection_id=8)


def test_a_queued_run_is_performed_by_a_worker(face: Any, database: Any) -> None:
    sync = declare(face, lambda op, connection_id: op.token, queue="sync")
    job = sync.enqueue(connection_id=7)
    assert face.run_worker(drain=True, queues=["sync"]).completed == 1
    state = sync.status(connection_id=7)
    assert (state.state, state.job_id) == ("completed", job.id)
    assert face.job(job.id).result == state.outcome


def test_a_queued_run_that_is_blocked_ends_with_the_message(new_face: Any, database: Any) -> None:
    first, second = new_face(), new_face()
    sync = declare(second, lambda op, connection_id: None)
    job = sync.enqueue(connection_id=7)
    with first.lock(KEY, ttl=60):
        assert second.run_worker(drain=True).cancelled == 1
    found = second.job(job.id)
    assert (found.state, found.result) == ("cancelled", {"reason": MESSAGE})
    assert history(database)[0][:3] == ("blocked", KEY, MESSAGE)


def test_a_queued_run_goes_back_unspent_where_it_may(new_face: Any, database: Any) -> None:
    first, second = new_face(), new_face()
    sync = declare(second, lambda op, connection_id: None, blocked=Release(after=60))
    job = sync.enqueue(connection_id=7)
    with first.lock(KEY, ttl=60):
        assert second.run_worker(drain=True).released == 0
        assert second.why_not_running(job.id).reason == "lock held"
        with pytest.raises(OperationBlocked, match="template_sync is already in progress"):
            sync(connection_id=7)
    assert [row[0] for row in history(database)] == ["blocked"]
    assert second.run_worker(drain=True).completed == 1


def test_a_queued_run_that_loses_its_lock_before_it_begins_goes_back_unspent(
    new_face: Any, database: Any
) -> None:
    first, second = new_face(), new_face()
    sync = declare(second, lambda op, connection_id: None, blocked=Release(after=60))
    job = sync.enqueue(connection_id=7)
    lock = first.lock(KEY, ttl=60)

    def lock_is_taken_meanwhile() -> None:
        # As when the job has waited in its worker for longer than its lock was reserved.
        database.execute("DELETE FROM pgsync.lock_holder")
        lock.acquire()

    if hasattr(second, "wrapped"):

        @second.tasks.use
        async def late(job: Any, call: Any) -> Any:
            await asyncio.to_thread(lock_is_taken_meanwhile)
            return await call()

    else:

        @second.tasks.use
        def late(job: Any, call: Any) -> Any:
            lock_is_taken_meanwhile()
            return call()

    assert second.run_worker(drain=True).released == 1
    found = second.job(job.id)
    assert (found.state, found.attempt) == ("scheduled", 0)
    assert [row[0] for row in history(database)] == ["released"]
    lock.release()


def test_a_queued_run_beyond_the_limit_waits_its_turn_unspent(face: Any, database: Any) -> None:
    sync = declare(face, lambda op, connection_id: None, limit=Limit(1, per=3600))
    sync.enqueue(connection_id=7)
    late = sync.enqueue(connection_id=7)
    report = face.run_worker(drain=True, concurrency=1)
    assert (report.completed, report.released) == (1, 1)
    found = face.job(late.id)
    assert (found.state, found.attempt) == ("scheduled", 0)
    assert 3500 < (found.run_at - found.created_at).total_seconds() < 3700


def test_a_run_whose_process_died_is_abandoned_by_the_next(face: Any, database: Any) -> None:
    database.execute(
        "SELECT pgsync.begin_operation('template_sync', %s, '{}', 'gone', NULL, %s, 1)", [KEY, KEY]
    )
    database.execute("LISTEN pgsync_operations")
    declare(face, lambda op, connection_id: None)(connection_id=7)
    (told,) = database.notifies(timeout=30, stop_after=1)
    assert json.loads(told.payload)["state"] == "abandoned"
    assert [row[0] for row in history(database)] == ["abandoned", "completed"]
    assert events(database) == ["running", "abandoned", "running", "completed"]


def test_progress_is_seen_and_the_last_word_kept(sync: Any, database: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    def work(op: Any, connection_id: int) -> None:
        for done in range(1, 1001):
            op.progress(done, 1000)
        seen.append(database.execute("SELECT done, total FROM pgsync.operations").fetchone())
        op.progress(1001, 2000)
        op.note("paging", cursor="abc")

    operation = declare(sync, work)
    operation(connection_id=7)
    assert seen == [(1000, 1000)]
    state = operation.status(connection_id=7)
    assert (state.done, state.total) == (1001, 2000)
    row = database.execute("SELECT detail FROM pgsync.operation_events WHERE event = 'paging'")
    assert row.fetchone() == ({"cursor": "abc"},)


def test_a_permit_is_waited_for_while_the_lock_lasts(sync: Any) -> None:
    def work(op: Any, connection_id: int) -> None:
        op.permit()

    declare(sync, work, limit=Limit(1, per=0.3))(connection_id=7)
    with pytest.raises(RateLimited):
        declare(sync, work, name="slow", limit=Limit(1, per=3600), lock="s:{connection_id}", ttl=5)(
            connection_id=7
        )
    with pytest.raises(InvalidArgument, match="has no limit"):
        declare(sync, work, name="free", lock="f:{connection_id}")(connection_id=7)


def test_a_lock_lost_in_the_middle_stops_the_work(sync: Any, database: Any) -> None:
    def work(op: Any, connection_id: int) -> None:
        database.execute("SELECT pgsync.force_unlock(%s)", [KEY])
        until = threading.Event()
        for _ in range(1000):
            op.progress(1)
            until.wait(0.01)

    with pytest.raises(LockLost):
        declare(sync, work)(connection_id=7)
    state, _, error, _ = history(database)[0]
    assert state == "failed"
    assert error.startswith("LockLost:")


def test_work_that_did_not_notice_the_loss_is_marked(sync: Any, database: Any) -> None:
    def is_lost(op: Any) -> bool:
        try:
            op.check()
        except LockLost:
            return True
        return False

    def work(op: Any, connection_id: int) -> None:
        database.execute("SELECT pgsync.force_unlock(%s)", [KEY])
        eventually(lambda: is_lost(op))

    declare(sync, work)(connection_id=7)
    assert events(database) == ["running", "lock_lost", "completed"]


def test_declarations_that_cannot_work_are_refused(sync: Any) -> None:
    for lock in ("x:{other}", "x:{}", "x:{"):
        with pytest.raises(InvalidArgument):
            declare(sync, lambda op, connection_id: None, name=f"bad {lock}", lock=lock)
    with pytest.raises(InvalidArgument, match="'bare' needs lock and ttl"):
        sync.operation("bare")(lambda op: None)
    with pytest.raises(InvalidArgument, match="first parameter"):
        sync.operation("none", lock="x", ttl=1)(lambda: None)
    operation = declare(sync, lambda op, connection_id: None)
    with pytest.raises(InvalidArgument):
        operation(other=7)
    with pytest.raises(InvalidArgument):
        operation.enqueue()
    with pytest.raises(InvalidArgument, match="needs"):
        operation.status()


def test_old_runs_are_forgotten_with_their_events(sync: Any, database: Any, clock: Any) -> None:
    declare(sync, lambda op, connection_id: None)(connection_id=7)
    clock.move(86_400 * 31)
    assert database.execute("SELECT pgsync.prune_operations()").fetchone() == (1,)
    assert events(database) == []


def test_the_state_is_found_by_an_index_however_often_tries_were_refused(
    sync: Any, database: Any
) -> None:
    database.execute(
        "INSERT INTO pgsync.operation_run (operation, key, args, state, actor, requested_at)"
        " SELECT 'template_sync', 'k:' || n % 20, '{}', CASE WHEN n <= 20 THEN 'completed'"
        " ELSE 'blocked' END, 'ada', now() FROM generate_series(1, 20000) AS n"
    )
    database.execute("ANALYZE pgsync.operation_run")
    assert sync.status_of("template_sync", "k:7").id == 7
    body = database.execute(
        "SELECT prosrc FROM pg_proc WHERE proname = 'operation_status'"
    ).fetchone()[0]
    for name, value in (("operation", "template_sync"), ("key", "k:7")):
        body = body.replace(f"operation_status.{name}", f"'{value}'")
    plan = "\n".join(row[0] for row in database.execute(f"EXPLAIN (ANALYZE) {body}"))
    assert "operation_run_ran" in plan
    assert "Seq Scan" not in plan
    assert "Rows Removed" not in plan


def test_an_operations_attempts_come_after_its_own_backoff(face: Any, database: Any) -> None:
    def fails(op: Any, connection_id: int) -> None:
        raise ValueError("upstream said no")

    sync = declare(face, fails, max_attempts=4, backoff=[100, 1000])
    job = sync.enqueue(connection_id=7)
    for least, most in ((100, 150), (1000, 1500), (1000, 1500)):
        face.run_worker(drain=True)
        waits = database.execute(
            "SELECT extract(epoch FROM run_at - (errors -> -1 ->> 'at')::timestamptz)"
            " FROM pgsync.job_scheduled WHERE id = %s",
            [job.id],
        ).fetchone()
        assert least * 0.7 <= waits[0] <= most
        database.execute("UPDATE pgsync.job_scheduled SET run_at = now()")
    face.run_worker(drain=True)
    assert face.job(job.id).state == "discarded"


def test_a_tenants_runs_are_bounded(face: Any, database: Any) -> None:
    running, most = [0], [0]

    def work(op: Any, connection_id: int) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        database_count = database.execute("SELECT count(*) FROM pgsync.job_running").fetchone()[0]
        assert database_count == 1
        running[0] -= 1

    sync = declare(
        face, work, key=lambda args: "workspace:1", tenant="workspace:1", max_running_per_key=1
    )
    for connection_id in range(5):
        sync.enqueue(connection_id=connection_id)
    assert face.run_worker(drain=True, concurrency=5).completed == 5
    assert most == [1]
