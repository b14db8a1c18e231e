"""Jobs that start after others, where claims, ends and cancellations meet."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, left, reason, state
from tests.waiting import sessions_waiting

pytestmark = pytest.mark.core


def test_a_parent_that_is_ending_while_the_child_is_claimed(
    database: Any, dsn: str, new_worker: Any
) -> None:
    """The child is claimed while its parent's end is not committed yet."""
    (session, worker), other = new_worker(), new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    child = enqueue(database, after=[parent])
    with session.transaction():
        complete(session, worker, (parent, 1))
        assert claim(*other) == []
        assert state(database, child) == ("waiting", 0)
        assert claim(*other) == []
    assert claim(*other) == [child]
    assert left(database) == 0


def test_a_parent_cannot_end_unseen_while_the_child_is_put_aside(
    database: Any, dsn: str, new_worker: Any
) -> None:
    (session, worker), other = new_worker(), new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    child = enqueue(database, after=[parent])
    with other[0].transaction():
        assert claim(*other) == []
        ending = threading.Thread(target=complete, args=(session, worker, (parent, 1)))
        ending.start()
        eventually(lambda: sessions_waiting(database))
    ending.join(60)
    assert claim(*other) == [child]


def test_two_parents_that_end_at_once_in_open_transactions(database: Any, new_worker: Any) -> None:
    mine, other = new_worker(), new_worker()
    first, second = enqueue(database), enqueue(database)
    child = enqueue(database, after=[first, second])
    assert claim(*mine, batch=1) == [first]
    assert claim(*other) == [second]
    with mine[0].transaction():
        complete(*mine, (first, 1))
        ending = threading.Thread(target=complete, args=(*other, (second, 1)))
        ending.start()
        eventually(lambda: sessions_waiting(database))  # for the child's row
    ending.join(60)
    assert claim(*mine) == [child]
    assert left(database) == 0


def test_what_a_frozen_snapshot_missed_is_found_by_maintenance(
    database: Any, new_worker: Any
) -> None:
    (session, worker), other = new_worker(), new_worker()
    parent = enqueue(database)
    assert claim(session, worker) == [parent]
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT count(*) FROM pgsync.jobs")
    child = enqueue(database, after=[parent])
    assert claim(*other) == []
    complete(session, worker, (parent, 1))
    session.execute("COMMIT")
    assert claim(*other) == []
    assert database.execute("SELECT pgsync.settle_dependencies(true)").fetchone() == (1,)
    assert claim(*other) == [child]


def test_a_job_put_aside_while_its_parent_falls(database: Any, new_worker: Any) -> None:
    """Cancelled level by level: a grandchild joins while its parent is being cancelled."""
    mine, other = new_worker(), new_worker()
    parent = enqueue(database)
    child = enqueue(database, after=[parent])
    assert claim(*mine) == [parent]
    grandchild = enqueue(database, after=[child])
    with other[0].transaction():
        assert claim(*other) == []
        failing = threading.Thread(target=fail, args=(*mine, parent, 1, None))
        failing.start()
        eventually(lambda: sessions_waiting(database))
    failing.join(60)
    assert state(database, child)[0] == "cancelled"
    assert reason(database, grandchild) == f"job {child}, which it waits for, was cancelled"


def test_a_job_put_aside_while_what_fell_with_its_parent_is_cancelled(
    database: Any, new_worker: Any
) -> None:
    """It is none of those that the failure found, and must not lose what it waits for to them."""
    mine, other, third = new_worker(), new_worker(), new_worker()
    failing, lasting = enqueue(database), enqueue(database)
    found = enqueue(database, after=[failing])
    assert claim(*mine, batch=1) == [failing]
    assert claim(*other, batch=1) == [lasting]
    assert claim(*third) == []
    late, alone = enqueue(database, after=[failing, lasting]), enqueue(database, after=[failing])
    database.execute(
        """
        CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END';
        CREATE TRIGGER stop BEFORE INSERT ON pgsync.job_finished FOR EACH ROW
        WHEN (NEW.state = 'cancelled') EXECUTE FUNCTION stop();
        SELECT pg_advisory_lock(42);
        """
    )
    ending = threading.Thread(target=fail, args=(*mine, failing, 1, None))
    ending.start()
    waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' AND pid = %s"
    eventually(lambda: database.execute(waits, [mine[0].info.backend_pid]).fetchone() is not None)
    assert claim(*third) == []
    database.execute("SELECT pg_advisory_unlock(42)")
    ending.join(60)
    complete(*other, (lasting, 1))
    assert claim(*third) == []
    assert {state(database, job)[0] for job in (found, late, alone)} == {"cancelled"}
    assert left(database) == 0


def _spin(
    dsn: str, run: Callable[[Any, int], None], stop: threading.Event, errors: list[str]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        worker = session.execute(
            "SELECT pgsync.register_worker('spin', 'host', 1, '0', '{default}', 1)"
        ).fetchone()[0]  # type: ignore[index]
        while not stop.is_set():
            try:
                run(session, worker)
            except psycopg.Error as error:
                errors.append(str(error))
                return


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_graph_is_run_in_its_order(database: Any, dsn: str, seed: int) -> None:
    """Each job starts after all before it ended; failures reach just those below; all end."""
    choose = random.Random(seed)
    jobs: list[int] = []
    parents: dict[int, tuple[list[int], bool]] = {}
    failing: set[int] = set()
    for number in range(300):
        before = choose.sample(jobs, min(len(jobs), choose.choice([0, 0, 1, 1, 2, 5])))
        anyway = choose.random() < 0.3
        key = choose.choice([None, None, "a", "b"])
        job = enqueue(
            database,
            after=before,
            after_failed=anyway,
            key=key,
            key_limit=key and 1,
            priority=choose.choice([0, 0, 1, -1]),
        )
        jobs.append(job)
        parents[job] = before, anyway
        if choose.random() < 0.05 and number > 3:
            failing.add(job)
    stop, errors = threading.Event(), list[str]()
    started: dict[int, datetime] = {}

    def work(session: Any, worker: int) -> None:
        claimed = claim(session, worker, batch=choose.choice([1, 3, 10]))
        started.update(dict.fromkeys(claimed, datetime.now(UTC)))
        ready = [job for job in claimed if job not in failing]
        if ready:
            complete(session, worker, *((job, 1) for job in ready))
        for job in failing.intersection(claimed):
            fail(session, worker, job, 1, retry_in=None)
        if not claimed:
            time.sleep(0.001)

    threads = [threading.Thread(target=_spin, args=(dsn, work, stop, errors)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(
            lambda: (
                bool(errors)
                or database.execute("SELECT count(*) FROM pgsync.job_finished").fetchone() == (300,)
            ),
            within=60,
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert errors == []
    rows = database.execute("SELECT id, state, finished_at FROM pgsync.job_history").fetchall()
    seen = {job: (end, finished) for job, end, finished in rows}
    assert len(seen) == 300
    for job, (before, anyway) in parents.items():
        end, _ = seen[job]
        bad = any(seen[parent][0] != "completed" for parent in before)
        assert (end == "cancelled") == (bad and not anyway)
        assert (job in started) == (end != "cancelled")
        if job in started:
            assert end == ("discarded" if job in failing else "completed")
            assert all(seen[parent][1] <= started[job] for parent in before)
    assert left(database) == 0
