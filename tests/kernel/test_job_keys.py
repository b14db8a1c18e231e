"""Concurrency keys and limits of queues: decided in the claim, for all workers."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from pgsync import Limit
from pgsync.errors import InvalidArgument
from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, state
from tests.kernel.conftest import Clock
from tests.threads import at_once

pytestmark = pytest.mark.core


def in_use(database: Any) -> dict[str, tuple[int, int]]:
    """Of each key: slots taken, jobs that wait."""
    rows = database.execute("SELECT key, slots_taken, waiting FROM pgsync.job_keys").fetchall()
    return {key: (taken, waiting) for key, taken, waiting in rows}


def busiest_key(database: Any) -> int:
    """How many jobs of the busiest key run now."""
    row = database.execute(
        "SELECT max(count) FROM (SELECT count(*) FROM pgsync.job_running GROUP BY key) AS running"
    ).fetchone()
    return int(row[0])


def test_of_one_key_no_more_run_than_may(database: Any, new_worker: Any) -> None:
    (session, worker), other = new_worker(), new_worker()
    first, second, third = (enqueue(database, key="t:1", key_limit=2) for _ in range(3))
    free = enqueue(database)
    assert sorted(claim(session, worker)) == [first, second, free]
    assert claim(*other) == []
    assert state(database, third) == ("waiting", 0)
    assert in_use(database) == {"t:1": (2, 1)}
    assert complete(session, worker, (first, 1)) == [first]
    assert claim(*other) == [third]
    complete(session, worker, (second, 1))
    complete(*other, (third, 1))
    assert in_use(database) == {}


def test_a_slot_goes_to_whoever_waits_longest_before_new_jobs(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    running, waiting = (enqueue(database, key="k", key_limit=1) for _ in range(2))
    assert claim(session, worker) == [running]
    crowd = [enqueue(database) for _ in range(3)]
    newer = enqueue(database, key="k", key_limit=1)
    complete(session, worker, (running, 1))
    assert claim(session, worker, batch=1) == [waiting]
    assert claim(session, worker) == crowd
    complete(session, worker, (waiting, 1))
    assert claim(session, worker) == [newer]


@pytest.mark.parametrize("how", ["fail", "release", "give back", "rescue", "cancel", "discard"])
def test_however_an_attempt_ends_its_slot_is_free_once(
    database: Any, new_worker: Any, how: str
) -> None:
    (session, worker), other = new_worker(), new_worker()
    first, second, third = (enqueue(database, key="k", key_limit=1) for _ in range(3))
    assert claim(session, worker) == [first]
    if how == "fail":
        fail(session, worker, first, 1, retry_in=60)
    elif how == "release":
        session.execute("SELECT pgsync.release_job(%s, %s, 1, '1 min')", [worker, first])
    elif how == "give back":
        session.execute("SELECT pgsync.give_back_jobs(%s, NULL)", [worker])
    elif how == "rescue":
        session.close()
        assert database.execute("SELECT pgsync.rescue_jobs('1 day')").fetchone()[0] in (0, 1)
        while database.execute("SELECT count(*) FROM pgsync.worker").fetchone()[0] > 1:
            database.execute("SELECT pgsync.rescue_jobs('1 day')")
    else:
        database.execute("SELECT pgsync.cancel_job(%s)", [first])
        session.execute("SELECT pgsync.stop_job(%s, %s, 1, '{}')", [worker, first])
    # A second ending of the same attempt is late, and gives nothing back.
    if how != "rescue":
        assert complete(session, worker, (first, 1)) == []
    assert in_use(database)["k"][0] == 1
    assert claim(*other) == [second]
    assert claim(*other) == []
    assert state(database, third) == ("waiting", 0)


def test_jobs_put_aside_are_cancelled_discarded_and_listed(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    jobs = [enqueue(database, key="k", key_limit=1) for _ in range(4)]
    assert claim(session, worker) == jobs[:1]
    explained = face.why_not_running(jobs[2])
    assert (explained.state, explained.reason, explained.ahead) == ("waiting", "key busy", 1)
    assert f"job {jobs[0]}" in explained.detail
    assert face.cancel_job(jobs[1]) == "cancelled"
    assert database.execute("SELECT pgsync.discard_job(%s)", [jobs[2]]).fetchone() == ("discarded",)
    assert in_use(database) == {"k": (1, 1)}
    complete(session, worker, (jobs[0], 1))
    assert in_use(database) == {"k": (1, 0)}
    # One that holds a slot and is not claimed yet gives it back too.
    assert face.cancel_job(jobs[3]) == "cancelled"
    assert in_use(database) == {}


def test_a_long_line_of_one_key_does_not_keep_others_waiting(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[3000]),"
        " keys => array_fill('big'::text, ARRAY[3000]), key_limit => 1)"
    )
    other = enqueue(database, key="small", key_limit=1)
    assert len(claim(session, worker, batch=2)) == 2
    assert in_use(database) == {"big": (1, 2999), "small": (1, 0)}
    assert state(database, other) == ("running", 1)


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


def test_many_workers_at_once_never_run_more_of_a_key_than_may(
    database: Any, dsn: str, new_worker: Any
) -> None:
    keys = [f"k{number % 7}" for number in range(300)]
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[300]), keys => %s,"
        " key_limit => 2)",
        [keys],
    )
    ended: list[int] = []
    seen: list[int] = []
    errors: list[BaseException] = []

    def work(session: psycopg.Connection[Any], worker: int) -> None:
        try:
            while len(ended) < 300 and not errors:
                jobs = claim(session, worker, batch=5)
                if jobs:
                    seen.append(busiest_key(session))
                ended.extend(complete(session, worker, *((job, 1) for job in jobs)))
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    at_once(partial(work, *new_worker()) for _ in range(6))
    assert errors == []
    assert len(set(ended)) == len(ended) == 300
    assert set(seen) <= {1, 2}
    assert in_use(database) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key_limit": 1}, "need a key"),
        ({"key": "k", "key_limit": 0}, "from 1 to 32767"),
        ({"key": "k", "key_limit": 2, "ordered": True}, "one at a time"),
        ({"key": ""}, "key"),
    ],
)
def test_a_key_that_cannot_work_is_refused(
    database: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
        enqueue(database, **options)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="be 1 or more"):
        database.execute("SELECT pgsync.limit_queue('q', max_running => 0)")


def test_a_task_declares_its_key(face: Any, database: Any) -> None:
    @face.task(name="work", key="tenant:{tenant}", max_running_per_key=2)
    def work(tenant: int) -> None: ...

    work.enqueue(tenant=7)
    work.enqueue_many([{"tenant": 8}, {"tenant": 9}])
    work.options(key="mine").enqueue(tenant=1)
    rows = database.execute("SELECT key, key_limit FROM pgsync.job_ready ORDER BY id").fetchall()
    assert rows == [("tenant:7", 2), ("tenant:8", 2), ("tenant:9", 2), ("mine", 2)]
    with pytest.raises(InvalidArgument, match="need a key"):
        face.task(name="other", ordered=True)(lambda: None)
    with pytest.raises(InvalidArgument, match="1 or more"):
        face.task(name="other", key="k", max_running_per_key=0)(lambda: None)
    with pytest.raises(InvalidArgument, match="needs an argument"):
        face.task(name="wrong", key="{no}")(lambda: None).enqueue()
