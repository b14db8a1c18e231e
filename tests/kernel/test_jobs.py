"""The life of a job by plain SQL: claimed, ended, given back, cancelled, rescued, remembered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, state
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def test_jobs_are_claimed_by_priority_then_arrival(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    usual = enqueue(database)
    urgent = enqueue(database, priority=-5)
    second = enqueue(database)
    late = enqueue(database, priority=9)
    assert claim(session, worker, batch=1) == [urgent]
    assert claim(session, worker) == [usual, second, late]


def test_queues_are_claimed_in_the_order_given(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    low, high, other = (enqueue(database, queue) for queue in ("low", "high", "other"))
    assert claim(session, worker, queues=["high", "low"]) == [high, low]
    assert claim(session, worker, queues=["high"]) == []
    first, other_again = enqueue(database, "zzz"), enqueue(database, "aaa")
    assert claim(session, worker, queues=["zzz", "*"]) == [first, other_again, other]


def test_a_paused_queue_is_not_claimed_from(face: Any, database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    job = enqueue(database)
    since = face.pause_queue("default", by="ops")
    assert face.pause_queue("default", by="somebody else") == since
    assert claim(session, worker) == []
    assert claim(session, worker, queues=["*"]) == []
    row = database.execute("SELECT name, paused, paused_by, available FROM pgsync.queues")
    assert row.fetchone() == ("default", True, "ops", 1)
    assert face.resume_queue("default")
    assert not face.resume_queue("default")
    assert claim(session, worker) == [job]


def test_two_claims_at_once_share_no_job(database: Any, dsn: str, new_worker: Any) -> None:
    first, second = new_worker(), new_worker()
    jobs = [enqueue(database) for _ in range(4)]
    with first[0].transaction():
        mine = claim(*first, batch=2)
        # The first claim is not committed: the second passes it by, and does not wait.
        theirs = claim(*second, batch=10)
    assert (mine, theirs) == (jobs[:2], jobs[2:])


def test_completion_in_a_batch_refuses_what_is_late(database: Any, new_worker: Any) -> None:
    (session, worker), (_, other) = new_worker(), new_worker()
    jobs = [enqueue(database) for _ in range(3)]
    assert claim(session, worker) == jobs
    assert complete(session, other, (jobs[0], 1)) == []
    assert complete(session, worker, (jobs[0], 2)) == []
    accepted = complete(session, worker, (jobs[0], 1), (jobs[1], 7), (jobs[2], 1))
    assert sorted(accepted) == [jobs[0], jobs[2]]
    assert complete(session, worker, (jobs[0], 1)) == []
    assert [state(database, job) for job in jobs] == [
        ("completed", 1),
        ("running", 1),
        ("completed", 1),
    ]


def test_a_job_is_tried_again_and_then_discarded_with_every_error(
    database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    job = enqueue(database, max_attempts=2, unique_key="only")
    assert claim(session, worker) == [job]
    assert fail(session, worker, job, attempt=2) is None
    assert fail(session, worker, job, attempt=1, retry_in=30) == "retryable"
    assert state(database, job) == ("retryable", 1)
    assert claim(session, worker) == []
    clock.move(30)
    assert claim(session, worker) == [job]
    assert fail(session, worker, job, attempt=2, retry_in=30) == "discarded"
    row = database.execute("SELECT state, errors FROM pgsync.job_history").fetchone()
    assert row[0] == "discarded"
    assert [(e["attempt"], e["error"], e["worker"]) for e in row[1]] == [
        (1, "no", worker),
        (2, "no", worker),
    ]
    assert enqueue(database, unique_key="only") != job


def test_a_released_job_keeps_its_attempt(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    job = enqueue(database)
    for _ in range(3):
        assert claim(session, worker) == [job]
        assert state(database, job) == ("running", 1)
        row = session.execute("SELECT pgsync.release_job(%s, %s, 1, '0')", [worker, job])
        assert row.fetchone() == ("scheduled",)


def test_a_waiting_job_is_cancelled_and_can_be_retried(face: Any, database: Any) -> None:
    job = enqueue(database, delay=timedelta(hours=1))
    assert face.cancel_job(job, reason="not now") == "cancelled"
    found = face.job(job)
    assert (found.state, found.result) == ("cancelled", {"reason": "not now"})
    assert face.cancel_job(job) is None
    assert face.retry_job(job) == "available"
    assert face.retry_job(job) is None
    assert face.job(job).state == "available"
    assert face.job(10**12) is None


@pytest.mark.parametrize("ending", ["fail", "release", "rescue"])
def test_a_cancel_that_was_asked_for_outlives_the_attempt(
    database: Any, new_worker: Any, ending: str
) -> None:
    session, worker = new_worker()
    job = enqueue(database, unique_key="only")
    claim(session, worker)
    assert database.execute("SELECT pgsync.cancel_job(%s)", [job]).fetchone() == ("running",)
    heard = session.execute(
        "SELECT known, cancelled FROM pgsync.worker_heartbeat(%s, false)", [worker]
    )
    assert heard.fetchone() == (True, [job])
    # It runs still, and so has its key.
    assert enqueue(database, unique_key="only") == job
    if ending == "fail":
        fail(session, worker, job, 1)
    elif ending == "release":
        session.execute("SELECT pgsync.release_job(%s, %s, 1, '0')", [worker, job])
    else:
        database.execute("SELECT pgsync.give_back_jobs(%s, 'the worker died')", [worker])
    assert state(database, job) == ("cancelled", 1)
    assert database.execute("SELECT count(*) FROM pgsync.job_unique").fetchone() == (0,)


def test_a_discarded_job_is_retried_with_one_more_attempt(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    job = enqueue(database, max_attempts=1, unique_key="only")
    claim(session, worker)
    assert fail(session, worker, job, 1) == "discarded"
    other = enqueue(database, unique_key="only")
    with pytest.raises(psycopg.errors.UniqueViolation, match="another unfinished job"):
        database.execute("SELECT pgsync.retry_job(%s)", [job])
    database.execute("SELECT pgsync.discard_job(%s)", [other])
    database.execute("SELECT pgsync.retry_job(%s)", [job])
    assert claim(session, worker) == [job]
    row = database.execute("SELECT attempt, max_attempts, errors FROM pgsync.job_running")
    attempt, most, errors = row.fetchone()
    assert (attempt, most, len(errors)) == (2, 2, 1)


def test_jobs_of_a_dead_worker_are_rescued_and_those_of_others_left(
    database: Any, new_worker: Any
) -> None:
    (dead, worker), (living, other) = new_worker(), new_worker()
    lost, kept, spent = enqueue(database), enqueue(database), enqueue(database, max_attempts=1)
    assert claim(dead, worker, 1) == [lost]
    assert claim(living, other, 1) == [kept]
    assert claim(dead, worker, 1) == [spent]
    assert database.execute("SELECT pgsync.rescue_jobs()").fetchone() == (0,)
    assert dead.execute("SELECT pgsync.rescue_jobs()").fetchone() == (0,)
    dead.close()
    eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone() == (2,))
    assert state(database, lost) == ("available", 1)
    assert state(database, kept) == ("running", 1)
    assert state(database, spent) == ("discarded", 1)


def test_a_silent_worker_is_given_up_and_may_claim_no_more(
    database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    job = enqueue(database)
    claim(session, worker)
    clock.move(61)
    assert database.execute("SELECT pgsync.rescue_jobs()").fetchone() == (1,)
    heard = session.execute("SELECT known FROM pgsync.worker_heartbeat(%s, false)", [worker])
    assert heard.fetchone() == (False,)
    with pytest.raises(psycopg.Error) as caught:
        claim(session, worker)
    assert caught.value.sqlstate == "PS003"
    assert complete(session, worker, (job, 1)) == []


def test_a_worker_that_ends_in_order_spends_no_attempt(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    job = enqueue(database)
    claim(session, worker)
    assert session.execute("SELECT pgsync.unregister_worker(%s)", [worker]).fetchone() == (1,)
    assert state(database, job) == ("available", 0)


def test_live_and_ended_jobs_share_their_first_columns(database: Any) -> None:
    first = [
        [column.name for column in database.execute(f"SELECT * FROM pgsync.{view}").description]
        for view in ("jobs", "job_history")
    ]
    shared = [
        "id",
        "queue",
        "task",
        "args",
        "state",
        "priority",
        "attempt",
        "max_attempts",
        "created_at",
        "run_at",
    ]
    assert first[0][:10] == first[1][:10] == shared


def test_no_word_is_sent_where_no_worker_waits(
    sync: Coordinator, database: Any, new_worker: Callable[..., Any]
) -> None:
    session, worker = new_worker()
    database.execute("LISTEN pgsync_jobs")
    enqueue(database)
    assert list(database.notifies(timeout=0.1)) == []
    session.execute("SELECT pgsync.worker_heartbeat(%s, true)", [worker])
    enqueue(database)
    enqueue(database, "elsewhere")
    heard = [notification.payload for notification in database.notifies(timeout=0.3)]
    assert heard == ["default"]
