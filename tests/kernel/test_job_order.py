"""Ordered jobs of a key run one after another, whatever happens to them."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, state

pytestmark = pytest.mark.core


def test_ordered_jobs_of_a_key_end_one_after_another_whatever_happens(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    first, second = (enqueue(database, key="k", ordered=True) for _ in range(2))
    assert claim(session, worker) == [first]
    # It keeps its slot while it waits for its next attempt.
    fail(session, worker, first, 1, retry_in=0)
    assert claim(session, worker) == [first]
    session.execute("SELECT pgsync.give_back_jobs(%s, NULL)", [worker])
    assert claim(session, worker) == [first]
    fail(session, worker, first, 2, retry_in=None)
    assert claim(session, worker) == [second]


def test_ordered_jobs_keep_their_order_through_failures_and_deaths_of_workers(
    database: Any, new_worker: Any
) -> None:
    draw = random.Random(7)
    jobs = [enqueue(database, key=f"k{n % 2}", ordered=True, max_attempts=4) for n in range(24)]
    of_key = {0: jobs[::2], 1: jobs[1::2]}
    started: list[int] = []
    workers = [new_worker() for _ in range(3)]
    while database.execute("SELECT count(*) FROM pgsync.jobs").fetchone()[0]:
        place = draw.randrange(3)
        session, worker = workers[place]
        for job in claim(session, worker, batch=draw.choice([1, 3])):
            started.append(job)
            _, attempt = state(database, job)
            ending = draw.choice(["complete", "complete", "fail", "discard", "release", "die"])
            if ending == "complete":
                complete(session, worker, (job, attempt))
            elif ending in ("fail", "discard"):
                fail(session, worker, job, attempt, retry_in=0 if ending == "fail" else None)
            elif ending == "release":
                session.execute(
                    "SELECT pgsync.release_job(%s, %s, %s, '0')", [worker, job, attempt]
                )
            else:
                session.close()
                eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone()[0])
                workers[place] = new_worker()
                break
    for number, line in of_key.items():
        mine = [job for job in started if job in line]
        # Whatever became of its attempts, a job began after the end of those before it.
        assert mine == sorted(mine), f"of key k{number}"
        assert set(mine) == set(line)


def test_ordered_jobs_keep_their_order_between_claims_at_once(
    database: Any, new_worker: Any
) -> None:
    mine, other = new_worker(), new_worker()
    first, second, third = (enqueue(database, key="k", ordered=True) for _ in range(3))
    with mine[0].transaction():
        assert claim(*mine, batch=1) == [first]
        # The other claim passes it by, and must not overtake it.
        waits = threading.Thread(target=lambda: results.append(claim(*other)))
        results: list[list[int]] = []
        waits.start()
        waits.join(0.3)
    waits.join(60)
    assert results == [[]]
    complete(*mine, (first, 1))
    assert claim(*other) == [second]
    assert state(database, third) == ("waiting", 0)


def test_an_ordered_job_does_not_overtake_one_that_another_claim_is_taking(
    database: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    first, second = (enqueue(database, key="k", ordered=True) for _ in range(2))
    with psycopg.connect(dsn) as other:
        # Taken from the queue, and its key not asked for yet.
        other.execute("SELECT FROM pgsync.job_ready WHERE id = %s FOR UPDATE", [first])
        assert claim(session, worker) == []
    assert state(database, second) == ("waiting", 0)
    assert claim(session, worker) == [first]
    complete(session, worker, (first, 1))
    assert claim(session, worker) == [second]


def test_an_ordered_job_is_not_held_up_by_one_that_is_cancelled(
    database: Any, face: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    first, second = (enqueue(database, key="k", ordered=True) for _ in range(2))
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM pgsync.job_ready WHERE id = %s FOR UPDATE", [first])
        assert claim(session, worker) == []
    assert face.cancel_job(first) == "cancelled"
    assert claim(session, worker) == [second]
