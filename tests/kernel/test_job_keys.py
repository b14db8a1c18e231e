"""Concurrency keys: of one key no more jobs run at once than may, over all workers."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest

from pgsync.errors import InvalidArgument
from tests.kernel.by_hand import claim, complete, enqueue, fail, in_use, state
from tests.threads import at_once

pytestmark = pytest.mark.core


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
    with pytest.raises(InvalidArgument, match="the key"):
        face.task(name="unread", key="{tenant")(lambda: None)
