"""The lock of a job: taken in the claim with the job, or the job is not claimed."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from pgsync import Limit, LockHeld
from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, in_use, state

pytestmark = pytest.mark.core

LOCK = "sync:7"


def try_lock(session: Any, name: str = LOCK, ttl: float = 60) -> int | None:
    """The token, or None where the lock is held."""
    row = session.execute(
        "SELECT token FROM pgsync.try_lock(%s, make_interval(secs => %s), 'by hand')", [name, ttl]
    ).fetchone()
    token: int | None = row[0]
    return token


def claim_tokens(session: Any, worker: int, batch: int = 10) -> dict[int, int | None]:
    """Claimed jobs, with the tokens of their locks."""
    return dict(
        session.execute(
            "SELECT id, lock_token FROM pgsync.claim_jobs(%s, '{default}', %s)", [worker, batch]
        ).fetchall()
    )


def test_a_job_is_not_claimed_while_its_lock_is_held(
    database: Any, face: Any, new_worker: Any
) -> None:
    with face.lock(LOCK, ttl=60, owner="an import by hand") as lock:
        job, free = enqueue(database, lock_name=LOCK), enqueue(database)
        assert claim(*new_worker()) == [free]
        assert state(database, job) == ("waiting", 0)
        why = face.why_not_running(job)
        assert (why.reason, why.until, why.ahead) == ("lock held", lock.expires_at, 0)
        assert "held by an import by hand since" in why.detail
        # It is not looked at again.
        assert claim(*new_worker()) == []
    assert state(database, job) == ("available", 0)
    assert claim(*new_worker()) == [job]


def test_a_claimed_job_keeps_its_lock_from_everybody(
    database: Any, face: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker("its worker")
    first, second = (enqueue(database, lock_name=LOCK) for _ in range(2))
    assert claim(session, worker) == [first]
    with pytest.raises(LockHeld) as caught:
        face.lock(LOCK, ttl=60).acquire()
    assert caught.value.holder == f"its worker job {first}"
    with psycopg.connect(dsn) as other:
        row = other.execute("SELECT acquired FROM pgsync.lock_transaction(%s)", [LOCK]).fetchone()
        assert row == (False,)
    assert f"held by its worker job {first}" in face.why_not_running(second).detail
    complete(session, worker, (first, 1))
    assert claim(session, worker) == [second]


def test_whoever_performs_the_job_restores_its_lock(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    job, later = (enqueue(database, lock_name=LOCK) for _ in range(2))
    token = claim_tokens(session, worker)[job]
    with face.restore_lock(LOCK, token, ttl=60) as lock:
        assert lock.token > token
        complete(session, worker, (job, 1))
        # The lock is its holder's, whatever becomes of the job.
        assert claim(session, worker) == []
        assert state(database, later) == ("waiting", 0)
    assert claim(session, worker) == [later]


@pytest.mark.parametrize("how", ["complete", "fail", "release", "give back", "rescue", "cancel"])
def test_however_an_attempt_ends_its_lock_is_free(database: Any, new_worker: Any, how: str) -> None:
    (session, worker), other = new_worker(), new_worker()
    first, second = (enqueue(database, lock_name=LOCK) for _ in range(2))
    assert claim(session, worker) == [first]
    if how == "complete":
        assert complete(session, worker, (first, 1)) == [first]
    elif how == "fail":
        fail(session, worker, first, 1, retry_in=60)
    elif how == "release":
        session.execute("SELECT pgsync.release_job(%s, %s, 1, '1 min')", [worker, first])
    elif how == "give back":
        # It comes back to the front, and nobody overtakes it.
        session.execute("SELECT pgsync.give_back_jobs(%s, NULL)", [worker])
        assert claim(*other) == [first]
        assert complete(*other, (first, 1)) == [first]
    elif how == "rescue":
        session.close()
        eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone()[0])
        assert claim(*other) == [first]
        assert complete(*other, (first, 2)) == [first]
    else:
        database.execute("SELECT pgsync.cancel_job(%s)", [first])
        session.execute("SELECT pgsync.stop_job(%s, %s, 1, '{}')", [worker, first])
    assert claim(*other) == [second]
    assert claim(*other) == []


def test_those_who_wait_for_a_lock_have_it_one_after_another(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    with face.lock(LOCK, ttl=60):
        jobs = [enqueue(database, lock_name=LOCK) for _ in range(4)]
        assert claim(session, worker) == []
    newer = enqueue(database, lock_name=LOCK)
    for job in [*jobs, newer]:
        assert claim(session, worker) == [job]
        assert claim(session, worker) == []
        complete(session, worker, (job, 1))
    assert database.execute("SELECT count(*) FROM pgsync.lock_holder").fetchone() == (0,)


def test_a_lock_of_a_transaction_is_waited_for_too(
    database: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    job = enqueue(database, lock_name=LOCK)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pgsync.lock_transaction(%s)", [LOCK])
        assert claim(session, worker) == []
        assert state(database, job) == ("waiting", 0)
    # Nobody tells of its end: a claim that finds nothing looks.
    assert claim(session, worker) == []
    assert claim(session, worker) == [job]


def test_a_lock_past_its_deadline_or_of_a_dead_session_comes_free(
    database: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    hanging, dying = (psycopg.connect(dsn, autocommit=True) for _ in range(2))
    try_lock(hanging, ttl=0.05)
    try_lock(dying, "sync:8")
    late, orphaned = enqueue(database, lock_name=LOCK), enqueue(database, lock_name="sync:8")
    claimed = claim(session, worker)
    dying.close()
    eventually(lambda: claimed.extend(claim(session, worker)) or len(claimed) == 2)
    assert sorted(claimed) == [late, orphaned]
    with pytest.raises(psycopg.OperationalError):
        hanging.execute("SELECT 1")


def test_a_reservation_that_nobody_restores_ends_after_ten_seconds(
    database: Any, face: Any, new_worker: Any, clock: Any
) -> None:
    session, worker = new_worker()
    jobs = [enqueue(database, lock_name=LOCK) for _ in range(2)]
    assert claim(session, worker) == jobs[:1]
    clock.move(9.9)
    assert database.execute("SELECT pgsync.resume_waiting_jobs()").fetchone() == (0,)
    clock.move(0.2)
    assert database.execute("SELECT pgsync.resume_waiting_jobs()").fetchone() == (1,)
    assert claim(session, worker) == jobs[1:]


def test_a_long_line_of_one_lock_does_not_keep_others_waiting(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[3000]),"
        " lock_names => array_fill(%s::text, ARRAY[3000]))",
        [LOCK],
    )
    other = enqueue(database, lock_name="sync:8")
    with face.lock(LOCK, ttl=60):
        assert claim(session, worker, batch=2) == [other]
        assert database.execute("SELECT count(*) FROM pgsync.job_waiting").fetchone() == (3000,)


def test_of_many_locks_a_hundred_are_taken_at_once_and_the_rest_at_once_after(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[250]),"
        " lock_names => ARRAY(SELECT 'sync:' || n FROM generate_series(1, 250) AS n))"
    )
    assert [len(claim(session, worker, batch=1000)) for _ in range(4)] == [100, 100, 50, 0]


def test_a_job_takes_its_slot_its_permit_and_its_lock_or_nothing(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_running=10, max_starts_per_key=Limit(2, per=3600))
    with face.lock(LOCK, ttl=60):
        blocked = enqueue(database, key="k", key_limit=1, lock_name=LOCK)
        next_of_key = enqueue(database, key="k", key_limit=1, lock_name="sync:8")
        assert claim(session, worker) == [next_of_key]
        assert in_use(database) == {"k": (1, 0)}
        complete(session, worker, (next_of_key, 1))
        assert in_use(database) == {}
    assert claim(session, worker) == [blocked]
    complete(session, worker, (blocked, 1))
    # Its permits are used up: the lock is given back with the job.
    refused = enqueue(database, key="k", key_limit=1, lock_name=LOCK)
    assert claim(session, worker) == []
    assert face.why_not_running(refused).reason == "key rate limited"
    assert database.execute("SELECT count(*) FROM pgsync.lock_holder").fetchone() == (0,)
    assert database.execute("SELECT taken FROM pgsync.queue_slots").fetchone() == (0,)


def test_an_ordered_job_that_waits_for_its_lock_is_not_overtaken(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    with face.lock(LOCK, ttl=60):
        first = enqueue(database, key="k", ordered=True, lock_name=LOCK)
        second = enqueue(database, key="k", ordered=True)
        assert claim(session, worker) == []
        assert claim(session, worker) == []
        assert in_use(database) == {"k": (1, 1)}
        assert f"job {first}" in face.why_not_running(second).detail
    assert claim(session, worker) == [first]
    complete(session, worker, (first, 1))
    assert claim(session, worker) == [second]


def test_one_that_waits_for_a_lock_can_be_cancelled_with_the_slot_it_keeps(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    with face.lock(LOCK, ttl=60):
        first = enqueue(database, key="k", ordered=True, lock_name=LOCK)
        second = enqueue(database, key="k", ordered=True)
        assert claim(session, worker) == []
        assert face.cancel_job(first) == "cancelled"
        assert claim(session, worker) == [second]
    assert in_use(database) == {"k": (1, 0)}


def test_no_two_ever_hold_one_lock_and_no_claim_is_in_vain(
    database: Any, dsn: str, new_worker: Any
) -> None:
    names = [f"sync:{n}" for n in range(4)]
    jobs = 160
    database.execute("CREATE TABLE inside (name text PRIMARY KEY, who text)")
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[%s]), lock_names => %s)",
        [jobs, [names[n % 4] for n in range(jobs)]],
    )
    ended: list[int] = []
    errors: list[BaseException] = []
    entered: list[str] = []

    def inside(session: Any, name: str, token: int, who: str) -> None:
        # Two inside at once break the primary key.
        session.execute("INSERT INTO inside VALUES (%s, %s)", [name, who])
        entered.append(who)
        session.execute("DELETE FROM inside WHERE name = %s", [name])
        assert session.execute("SELECT pgsync.unlock(%s, %s)", [name, token]).fetchone()[0]

    def perform(session: Any, worker: int, lock_session: Any) -> None:
        rows = session.execute(
            "SELECT c.id, r.lock_name, c.lock_token, c.attempt::int"
            " FROM pgsync.claim_jobs(%s, '{default}', 3) AS c"
            " LEFT JOIN pgsync.job_running AS r USING (id)",
            [worker],
        ).fetchall()
        for job, _, token, attempt in rows:
            name = session.execute(
                "SELECT lock_name FROM pgsync.job_running WHERE id = %s", [job]
            ).fetchone()[0]
            restored = lock_session.execute(
                "SELECT new_token FROM pgsync.restore_lock(%s, %s, '1 min')", [name, token]
            ).fetchone()[0]
            assert restored is not None
            inside(lock_session, name, restored, "job")
            if random.random() < 0.3:
                session.execute("SELECT pgsync.give_back_jobs(%s, NULL, %s)", [worker, [job]])
            else:
                ended.extend(complete(session, worker, (job, attempt)))

    def watched(work: Any) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as session:
                while len(ended) < jobs and not errors:
                    work(session)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    def disturb(session: Any) -> None:
        name = random.choice(names)
        token = try_lock(session, name)
        if token is not None:
            inside(session, name, token, "outsider")

    crew = [partial(perform, *new_worker()) for _ in range(4)]
    threads = [threading.Thread(target=watched, args=[work]) for work in [*crew, disturb, disturb]]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        database.execute("SELECT pgsync.resume_waiting_jobs()")
        time.sleep(0.05)
    assert errors == []
    assert len(set(ended)) == len(ended) == jobs
    assert set(entered) == {"job", "outsider"}
    assert database.execute("SELECT max(attempt) FROM pgsync.job_finished").fetchone() == (1,)


def test_a_lock_that_was_handed_over_is_kept_from_the_second_who_tries_too(
    database: Any, dsn: str
) -> None:
    token = try_lock(database)
    database.execute("SELECT pgsync.hand_over_lock(%s)", [token])
    with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True) as second:
        # The first has found it in the way, and its transaction goes on.
        assert try_lock(first) is None
        assert try_lock(second) is None
        # Nor does it hold up the one who restores it.
        second.execute("SET statement_timeout = '1s'")
        restored = second.execute(
            "SELECT acquired FROM pgsync.restore_lock(%s, %s, '1 min')", [LOCK, token]
        ).fetchone()
        assert restored == (True,)


def test_a_session_that_handed_a_lock_over_is_not_ended_at_its_deadline(
    database: Any, dsn: str, new_worker: Any, clock: Any
) -> None:
    session, worker = new_worker()
    token = try_lock(session, "handed over")
    session.execute("SELECT pgsync.hand_over_lock(%s)", [token])
    job = enqueue(database, lock_name=LOCK)
    assert claim(session, worker) == [job]
    clock.move(3600)
    assert database.execute("SELECT pgsync.reap_locks()").fetchone() == (0,)
    assert session.execute("SELECT 1").fetchone() == (1,)
