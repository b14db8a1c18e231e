"""Jobs that start after others: looked at once by the claim, resumed by whoever ends the last."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from pgsync.errors import InvalidArgument
from tests.kernel.by_hand import claim, complete, enqueue, fail, left, reason, state

pytestmark = pytest.mark.core


def test_a_job_starts_when_those_before_it_have_ended(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    first, second = enqueue(database), enqueue(database)
    child = enqueue(database, after=[first, second])
    assert claim(session, worker) == [first, second]
    assert state(database, child) == ("waiting", 0)
    assert left(database) == 2
    complete(session, worker, (first, 1))
    assert claim(session, worker) == []
    complete(session, worker, (second, 1))
    later = enqueue(database)
    assert claim(session, worker, batch=1) == [child]
    assert claim(session, worker) == [later]
    assert (left(database), state(database, child)) == (0, ("running", 1))


def test_jobs_before_that_have_ended_or_are_forgotten_hold_nothing_up(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    ended, forgotten = enqueue(database), enqueue(database)
    assert claim(session, worker) == [ended, forgotten]
    complete(session, worker, (ended, 1), (forgotten, 1))
    database.execute("DELETE FROM pgsync.job_finished WHERE id = %s", [forgotten])
    child = enqueue(database, after=[ended, forgotten])
    empty = enqueue(database, after=[])
    assert sorted(claim(session, worker)) == [child, empty]


@pytest.mark.parametrize("where", ["available", "scheduled", "waiting", "running"])
def test_it_waits_wherever_the_other_job_is(database: Any, new_worker: Any, where: str) -> None:
    (session, worker), other = new_worker(), new_worker()
    parent = enqueue(database, key="k", key_limit=1)
    if where != "running":
        holder = enqueue(database, key="k", key_limit=1, priority=-1)
        if where == "scheduled":
            database.execute("SELECT pgsync.cancel_job(%s)", [parent])
            parent = enqueue(database, delay="1 hour")
        elif where == "available":
            database.execute("SELECT pgsync.cancel_job(%s)", [parent])
            parent = enqueue(database, queue="elsewhere")
        assert claim(*other) == [holder]
    else:
        assert claim(*other) == [parent]
    assert state(database, parent)[0] == where
    child = enqueue(database, after=[parent])
    assert claim(session, worker) == []
    assert state(database, child) == ("waiting", 0)
    if where == "running":
        complete(*other, (parent, 1))
    else:
        database.execute("SELECT pgsync.discard_job(%s)", [parent])
        assert reason(database, child) == f"job {parent}, which it waits for, was discarded"
        return
    assert claim(session, worker) == [child]


@pytest.mark.parametrize("how", ["fail", "give back", "cancel", "stop"])
def test_who_waits_for_a_failed_job_is_cancelled_and_so_on(
    database: Any, new_worker: Any, how: str
) -> None:
    session, worker = new_worker()
    parent = enqueue(database, max_attempts=1)
    other = enqueue(database, queue="other")
    child = enqueue(database, after=[parent, other], unique_key="u")
    grandchild = enqueue(database, after=[child])
    cleanup = enqueue(database, after=[child], after_failed=True)
    assert claim(session, worker) == [parent]
    assert left(database) == 4
    if how == "fail":
        fail(session, worker, parent, 1, retry_in=None)
    elif how == "give back":
        session.execute("SELECT pgsync.give_back_jobs(%s, 'the worker died')", [worker])
    else:
        database.execute("SELECT pgsync.cancel_job(%s)", [parent])
        session.execute("SELECT pgsync.stop_job(%s, %s, 1, '{}')", [worker, parent])
    end = "discarded" if how in ("fail", "give back") else "cancelled"
    assert state(database, parent)[0] == end
    assert reason(database, child) == f"job {parent}, which it waits for, was {end}"
    assert reason(database, grandchild) == f"job {child}, which it waits for, was cancelled"
    assert claim(session, worker) == [cleanup]
    assert left(database) == 0
    # Its unique key is free.
    assert enqueue(database, unique_key="u") > cleanup


def test_who_is_claimed_after_the_failure_is_cancelled_too(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    fail(session, worker, parent, 1, retry_in=None)
    child = enqueue(database, after=[parent])
    anyway = enqueue(database, after=[parent], after_failed=True)
    assert claim(session, worker) == [anyway]
    assert claim(session, worker) == []
    assert reason(database, child) == f"job {parent}, which it waits for, was discarded"


def test_a_retry_is_no_end(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    child = enqueue(database, after=[parent])
    assert claim(session, worker) == [parent]
    fail(session, worker, parent, 1, retry_in=0)
    assert claim(session, worker) == [parent]
    session.execute("SELECT pgsync.release_job(%s, %s, 2, '0 s')", [worker, parent])
    assert claim(session, worker) == [parent]
    complete(session, worker, (parent, 2))
    assert claim(session, worker) == [child]


def test_the_failed_and_then_who_waited_for_it_are_retried(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    child = enqueue(database, after=[parent])
    assert claim(session, worker) == [parent]
    fail(session, worker, parent, 1, retry_in=None)
    assert state(database, child)[0] == "cancelled"
    database.execute("SELECT pgsync.retry_job(%s), pgsync.retry_job(%s)", [parent, child])
    assert claim(session, worker) == [parent]
    assert state(database, child) == ("waiting", 0)
    fail(session, worker, parent, 2, retry_in=None)
    assert state(database, child)[0] == "cancelled"
    # Retried alone it does without.
    database.execute("SELECT pgsync.retry_job(%s)", [child])
    assert claim(session, worker) == [child]


def test_what_waits_can_be_cancelled(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    child = enqueue(database, after=[parent])
    grandchild = enqueue(database, after=[child])
    assert claim(session, worker) == [parent]
    assert database.execute("SELECT pgsync.cancel_job(%s)", [child]).fetchone() == ("cancelled",)
    assert state(database, grandchild)[0] == "cancelled"
    assert left(database) == 0
    complete(session, worker, (parent, 1))
    assert claim(session, worker) == []


def test_first_the_jobs_then_the_key(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    child = enqueue(database, key="k", key_limit=1, after=[parent])
    free = enqueue(database, key="k", key_limit=1)
    assert claim(session, worker) == [parent, free]
    complete(session, worker, (parent, 1))
    assert claim(session, worker) == []
    assert database.execute("SELECT waits_for FROM pgsync.job_waiting").fetchall() == [("key",)]
    complete(session, worker, (free, 1))
    assert claim(session, worker) == [child]
    complete(session, worker, (child, 1))
    assert database.execute("SELECT count(*) FROM pgsync.job_keys").fetchone() == (0,)


def test_what_waits_takes_no_place_of_a_limited_queue(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    database.execute("SELECT pgsync.limit_queue('default', max_running => 1)")
    parent = enqueue(database, queue="other")
    enqueue(database, after=[parent])
    free = enqueue(database)
    assert claim(session, worker) == [free]
    taken = database.execute("SELECT taken FROM pgsync.queue_slots").fetchone()
    assert taken == (1,)


def test_putting_jobs_aside_locks_no_others(database: Any, new_worker: Any) -> None:
    mine, other = new_worker(), new_worker()
    parent = enqueue(database)
    assert claim(*mine) == [parent]
    enqueue(database, after=[parent])
    free = [enqueue(database) for _ in range(3)]
    with mine[0].transaction():
        assert claim(*mine, batch=1) == free[:1]
        assert claim(*other) == free[1:]


def test_a_job_that_never_was_is_refused(database: Any, face: Any) -> None:
    @face.task()
    def work() -> None:
        """Nothing."""

    for given in ("ARRAY[999]", "ARRAY[0]", "ARRAY[NULL]::bigint[]"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="never been a job"):
            database.execute(f"SELECT pgsync.enqueue('work', after => {given})")
    with pytest.raises(InvalidArgument, match="after takes ids"):
        work.options(after="17")
    first = work.enqueue()
    second = work.options(after=first).enqueue()
    third, fourth = work.options(after=[first, second.id]).enqueue_many([{}, {}])
    rows = database.execute("SELECT id, after FROM pgsync.job_ready ORDER BY id").fetchall()
    both = [first.id, second.id]
    assert rows == [(first.id, None), (second.id, [first.id]), (third, both), (fourth, both)]


def test_what_it_waits_for_is_told(database: Any, face: Any, new_worker: Any) -> None:
    session, worker = new_worker("loader")
    parent, other = enqueue(database), enqueue(database, queue="other")
    child = enqueue(database, after=[parent, other])
    told = face.why_not_running(child)
    assert (told.state, told.reason) == ("available", "waits for jobs")
    assert claim(session, worker) == [parent]
    told = face.why_not_running(child)
    assert (told.state, told.reason) == ("waiting", "waits for jobs")
    assert told.detail == f"it runs after job {parent} (running on loader), job {other} (available)"
    complete(session, worker, (parent, 1))
    database.execute("SELECT pgsync.cancel_job(%s)", [other])
    told = face.why_not_running(child)
    assert told.detail.endswith(f"job {other}, which it waits for, was cancelled")


def test_an_enqueuer_in_an_open_transaction_holds_nobody_up(
    database: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    session.execute("SET lock_timeout = '2 s'")
    with psycopg.connect(dsn) as enqueuer:
        child = enqueue(enqueuer, after=[parent])
        assert complete(session, worker, (parent, 1)) == [parent]
    assert claim(session, worker) == [child]


def test_a_chain_runs_step_by_step(face: Any, database: Any, dsn: str) -> None:
    @face.task()
    def step(number: int) -> None:
        """One step."""

    jobs = [step.job(number=1), [step.job(number=2), step.job(number=3)], step.job(number=4)]
    first, second, third, last = face.chain(jobs)
    with psycopg.connect(dsn) as connection:
        other = Coordinator(dsn)
        task = other.task(name="step")(lambda number: None)
        other.chain([task.job(number=9), task.job(number=9)], within=connection)
        connection.rollback()
        other.close()
    face.run_worker(drain=True)
    rows = database.execute(
        "SELECT id, started_at, finished_at FROM pgsync.job_history WHERE state = 'completed'"
    ).fetchall()
    started = {job: begin for job, begin, _ in rows}
    finished = {job: end for job, _, end in rows}
    assert set(started) == {first, second, third, last}
    assert max(started[second], started[third]) >= finished[first]
    assert started[last] >= max(finished[second], finished[third])
    with pytest.raises(InvalidArgument, match="a step of a chain needs a job"):
        face.chain([[]])
    with pytest.raises(InvalidArgument, match=r"made by task\.job"):
        face.chain([[3]])


def test_a_hundred_thousand_jobs_after_one(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    database.execute(
        "SELECT cardinality(pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[100000]),"
        " after => ARRAY[%s]))",
        [parent],
    )
    database.execute("ANALYZE")
    free = enqueue(database)
    for _ in range(20):
        if found := claim(session, worker):
            break
    assert found == [free]
    complete(session, worker, (parent, 1))
    counts = database.execute(
        "SELECT (SELECT count(*) FROM pgsync.job_ready), (SELECT count(*) FROM pgsync.job_waiting)"
    ).fetchone()
    assert counts == (100_000, 0)
    assert len(claim(session, worker, batch=1000)) == 1000
