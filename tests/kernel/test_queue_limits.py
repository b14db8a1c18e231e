"""What a queue lets through, over all workers: how many run, how many start, whose turn it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pgsync import Limit
from tests.kernel.by_hand import claim, complete, enqueue, state
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def test_a_claim_takes_no_more_slots_of_a_queue_than_it_has_jobs(
    database: Any, face: Any, new_worker: Any
) -> None:
    face.limit_queue("default", max_running=8)
    jobs = [enqueue(database)]
    assert claim(*new_worker()) == jobs
    assert database.execute("SELECT taken FROM pgsync.queue_slots").fetchone() == (1,)


def test_of_one_queue_no_more_run_than_may(database: Any, face: Any, new_worker: Any) -> None:
    (session, worker), other = new_worker(), new_worker()
    jobs = [enqueue(database) for _ in range(5)]
    assert claim(session, worker, batch=1) == jobs[:1]
    face.limit_queue("default", max_running=3)
    assert claim(session, worker) == jobs[1:3]
    assert claim(*other) == []
    assert face.why_not_running(jobs[3]).reason == "queue limited"
    complete(session, worker, (jobs[0], 1))
    assert claim(*other) == jobs[3:4]
    face.limit_queue("default")
    assert claim(*other) == jobs[4:]
    complete(session, worker, (jobs[1], 1), (jobs[2], 1))
    assert database.execute("SELECT taken FROM pgsync.queue_slots").fetchone() == (1,)


def test_no_more_of_a_queue_start_in_a_time_than_may(
    database: Any, face: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_starts=Limit(2, per=60))
    jobs = [enqueue(database) for _ in range(5)]
    assert claim(session, worker, batch=1) == jobs[:1]
    assert claim(session, worker) == jobs[1:2]
    assert claim(session, worker) == []
    explained = face.why_not_running(jobs[2])
    assert (explained.reason, (explained.until - clock.now).total_seconds()) == (
        "queue limited",
        60,
    )
    clock.move(60)
    assert claim(session, worker) == jobs[2:4]
    # What the queue's limiter is penalised with holds the queue back.
    clock.move(60)
    database.execute("SELECT pgsync.rate_limit_penalize('queue:default', '90 s', 'Retry-After')")
    assert claim(session, worker) == []
    clock.move(90)
    assert claim(session, worker) == jobs[4:]


def test_an_empty_limited_queue_costs_no_permits(database: Any, face: Any, new_worker: Any) -> None:
    face.limit_queue("default", max_starts=Limit(2, per=60), max_running=2)
    for _ in range(5):
        assert claim(*new_worker()) == []
    jobs = [enqueue(database) for _ in range(2)]
    assert claim(*new_worker()) == jobs


def test_no_more_of_a_key_start_in_a_time_than_may(
    database: Any, face: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_starts_per_key=Limit(2, per=60))
    jobs = [enqueue(database, key="k") for _ in range(5)]
    free = enqueue(database, key="other")
    assert sorted(claim(session, worker)) == [*jobs[:2], free]
    explained = face.why_not_running(jobs[2])
    assert explained.reason == "key rate limited"
    complete(session, worker, (jobs[0], 1), (jobs[1], 1))
    late = enqueue(database, key="k")
    assert claim(session, worker) == []
    clock.move(59)
    assert database.execute("SELECT pgsync.resume_waiting_jobs()").fetchone() == (0,)
    clock.move(1)
    assert database.execute("SELECT pgsync.resume_waiting_jobs()").fetchone() == (2,)
    assert claim(session, worker) == jobs[2:4]
    assert claim(session, worker) == []
    clock.move(60)
    # Nobody has resumed those that wait, and yet a new one does not overtake them.
    newest = enqueue(database, key="k")
    assert claim(session, worker) == [jobs[4], late]
    assert state(database, newest) == ("waiting", 0)


def test_a_raised_limit_is_used_in_a_moment(database: Any, face: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_running_per_key=1)
    jobs = [enqueue(database, key="k") for _ in range(4)]
    assert claim(session, worker) == jobs[:1]
    face.limit_queue("default", max_running_per_key=3)
    assert database.execute("SELECT pgsync.resume_waiting_jobs()").fetchone() == (2,)
    assert claim(session, worker) == jobs[1:3]


def test_a_job_takes_all_that_it_needs_or_nothing(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_running=10, max_starts=Limit(3, per=3600))
    jobs = [enqueue(database, key="k", key_limit=1) for _ in range(5)]
    free = [enqueue(database) for _ in range(5)]
    # The refused of the key cost the queue neither slots nor permits.
    assert sorted(claim(session, worker)) == [jobs[0], *free[:2]]
    assert database.execute("SELECT taken FROM pgsync.queue_slots").fetchone() == (3,)


def test_with_weights_each_queue_has_its_share_and_none_starves(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    for queue in ("often", "seldom"):
        database.execute(
            "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[400]), %s)", [queue]
        )

    def draw(batch: int) -> Counter[str]:
        rows = session.execute(
            "SELECT queue FROM pgsync.claim_jobs(%s, '{often,seldom}', %s, '{3,1}')",
            [worker, batch],
        )
        return Counter(row[0] for row in rows)

    assert draw(40) == {"often": 30, "seldom": 10}
    drawn: Counter[str] = Counter()
    for _ in range(200):
        drawn += draw(1)
    # 50 are expected; three standard deviations are 18.
    assert 25 <= drawn["seldom"] <= 75
    # What one queue has not is the other's.
    assert draw(1000) == {"often": 370 - drawn["often"], "seldom": 390 - drawn["seldom"]}
