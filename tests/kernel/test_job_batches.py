"""Batches: jobs that are counted together, and what is enqueued when all of them have ended."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.queues import current_job
from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail
from tests.kernel.conftest import Clock
from tests.waiting import sessions_waiting

pytestmark = pytest.mark.core

_DONE = '{"task": "done", "queue": "callbacks"}'
_WELL = '{"task": "well", "queue": "callbacks"}'


def new_batch(database: Any, jobs: int = 2) -> tuple[int, list[int]]:
    """A sealed batch with both callbacks."""
    with database.transaction():
        batch = database.execute(
            "SELECT pgsync.new_batch('import', %s, %s)", [_DONE, _WELL]
        ).fetchone()[0]
        ids = [enqueue(database, batch=batch) for _ in range(jobs)]
        database.execute("SELECT pgsync.seal_batch(%s)", [batch])
    return batch, ids


def counts(database: Any, batch: int) -> tuple[str, int, int, int, int]:
    """Its state, and of its jobs how many in all, completed, discarded, cancelled."""
    found: tuple[str, int, int, int, int] = database.execute(
        "SELECT state, total, completed, discarded, cancelled FROM pgsync.job_batches"
        " WHERE id = %s",
        [batch],
    ).fetchone()
    return found


def callbacks(database: Any) -> list[str]:
    """The tasks of the callbacks that were enqueued."""
    rows = database.execute("SELECT task FROM pgsync.jobs WHERE queue = 'callbacks' ORDER BY id")
    return [task for (task,) in rows]


def test_callbacks_are_enqueued_once_when_all_have_completed(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    batch, (first, second) = new_batch(database)
    assert claim(session, worker) == [first, second]
    complete(session, worker, (first, 1))
    assert (counts(database, batch), callbacks(database)) == (("running", 2, 1, 0, 0), [])
    complete(session, worker, (second, 1))
    assert counts(database, batch) == ("ended", 2, 2, 0, 0)
    assert callbacks(database) == ["well", "done"]
    assert complete(session, worker, (second, 1)) == []
    assert callbacks(database) == ["well", "done"]


@pytest.mark.parametrize("how", ["fail", "give back", "stop", "cancel", "follow"])
def test_however_the_last_job_ends_the_batch_does(database: Any, new_worker: Any, how: str) -> None:
    session, worker = new_worker()
    batch, (first, last) = new_batch(database)
    assert claim(session, worker, batch=1) == [first]
    complete(session, worker, (first, 1))
    if how == "cancel":
        database.execute("SELECT pgsync.cancel_job(%s)", [last])
    elif how == "follow":
        parent = enqueue(database, priority=-1)
        follower = enqueue(database, batch=batch, after=[parent])
        assert claim(session, worker) == [parent, last]
        complete(session, worker, (last, 1))
        assert counts(database, batch) == ("running", 3, 2, 0, 0)
        fail(session, worker, parent, 1, retry_in=None)
        assert follower > last
    else:
        assert claim(session, worker) == [last]
        if how == "fail":
            fail(session, worker, last, 1, retry_in=None)
        elif how == "stop":
            session.execute("SELECT pgsync.stop_job(%s, %s, 1, '{}')", [worker, last])
        else:
            database.execute("SELECT pgsync.cancel_job(%s)", [last])
            session.execute("SELECT pgsync.give_back_jobs(%s, NULL)", [worker])
    expected = {
        "fail": ("ended", 2, 1, 1, 0),
        "follow": ("ended", 3, 2, 0, 1),
    }.get(how, ("ended", 2, 1, 0, 1))
    assert counts(database, batch) == expected
    assert callbacks(database) == ["done"]


def test_jobs_may_end_before_the_batch_is_sealed(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    batch = database.execute("SELECT pgsync.new_batch('slow', %s)", [_DONE]).fetchone()[0]
    job = enqueue(database, batch=batch)
    assert claim(session, worker) == [job]
    complete(session, worker, (job, 1))
    assert counts(database, batch) == ("filling", 1, 1, 0, 0)
    sealed = database.execute("SELECT pgsync.seal_batch(%s)", [batch]).fetchone()
    assert (sealed, callbacks(database)) == (("ended",), ["done"])


def test_an_empty_batch_has_ended(sync: Coordinator, database: Any) -> None:
    done = sync.task(name="done", queue="callbacks")(lambda: None)
    batch = sync.batch("nothing to do", [], on_end=done.job(), on_completed=done.job())
    assert counts(database, batch.id) == ("ended", 0, 0, 0, 0)
    assert callbacks(database) == ["done", "done"]


def test_a_batch_of_jobs_that_add_to_it(face: Any, database: Any) -> None:
    seen = []

    @face.task()
    def page(number: int) -> None:
        batch = current_job().job.batch
        if number < 3:
            with psycopg.connect(face.dsn, autocommit=True) as connection:
                connection.execute(
                    "SELECT pgsync.enqueue('page', %s, batch => %s)",
                    [f'{{"number": {number + 1}}}', batch],
                )

    @face.task()
    def finish(name: str) -> None:
        seen.append((name, database.execute("SELECT total FROM pgsync.job_batches").fetchone()))

    batch = face.batch(
        "crawl", (page.job(number=n) for n in (1, 2)), on_end=finish.job(name="crawl")
    )
    assert len(batch.jobs) == 2
    face.run_worker(drain=True)
    assert seen == [("crawl", (5,))]
    state = face.batch_state(batch.id)
    assert (state.state, state.completed, state.unfinished, state.progress) == ("ended", 5, 0, 1.0)
    assert len(state.callbacks) == 1
    assert face.batch_state(batch.id + 1) is None


def test_batches_in_the_callers_transaction(face: Any, sync: Coordinator, dsn: str) -> None:
    task = sync.task(name="work")(lambda: None)
    with psycopg.connect(dsn) as connection:
        gone = sync.batch("gone", [task.job()], within=connection)
        connection.rollback()
        kept = sync.batch("kept", [task.job()], within=connection)
    assert face.batch_state(gone.id) is None
    assert face.batch_state(kept.id).total == 1


def test_what_can_be_no_batch_is_refused(face: Any, database: Any, new_worker: Any) -> None:
    @face.task()
    def work() -> None:
        """Nothing."""

    with pytest.raises(InvalidArgument, match=r"made by task\.job"):
        face.batch("wrong", [{}])
    with pytest.raises(InvalidArgument, match="on_end can have a queue"):
        face.batch("wrong", [], on_end=work.options(delay=3).job())
    with pytest.raises(InvalidArgument, match="nothing"):
        work.job(nothing=1)
    for given in ('{"task": "x", "delay": 3}', "[]", "{}"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            database.execute("SELECT pgsync.new_batch('wrong', %s)", [given])
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not exist"):
        enqueue(database, batch=7)
    batch, (job,) = new_batch(database, 1)
    database.execute("SELECT pgsync.cancel_job(%s)", [job])
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="has ended"):
        enqueue(database, batch=batch)


def test_who_adds_in_an_open_transaction_holds_nobody_up(
    database: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    batch, (first, second) = new_batch(database)
    assert claim(session, worker) == [first, second]
    session.execute("SET lock_timeout = '2 s'")
    with psycopg.connect(dsn) as enqueuer:
        third = enqueue(enqueuer, batch=batch)
        assert complete(session, worker, (first, 1)) == [first]
        assert counts(database, batch) == ("running", 2, 1, 0, 0)
    complete(session, worker, (second, 1))
    assert counts(database, batch) == ("running", 3, 2, 0, 0)
    assert claim(session, worker) == [third]
    complete(session, worker, (third, 1))
    assert callbacks(database) == ["well", "done"]


def test_the_last_two_end_at_once(database: Any, new_worker: Any) -> None:
    mine, other = new_worker(), new_worker()
    batch, (first, second) = new_batch(database)
    assert claim(*mine, batch=1) == [first]
    assert claim(*other) == [second]
    with mine[0].transaction():
        complete(*mine, (first, 1))
        ending = threading.Thread(target=complete, args=(*other, (second, 1)))
        ending.start()
        eventually(lambda: sessions_waiting(database))
    ending.join(60)
    assert counts(database, batch) == ("ended", 2, 2, 0, 0)
    assert callbacks(database) == ["well", "done"]


def test_a_retried_job_ends_again_but_not_its_batch(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    batch, (first, second) = new_batch(database)
    assert claim(session, worker) == [first, second]
    fail(session, worker, first, 1, retry_in=None)
    database.execute("SELECT pgsync.retry_job(%s)", [first])
    assert counts(database, batch) == ("running", 2, 0, 0, 0)
    complete(session, worker, (second, 1))
    assert callbacks(database) == []
    assert claim(session, worker) == [first]
    fail(session, worker, first, 2, retry_in=None)
    assert counts(database, batch) == ("ended", 2, 1, 1, 0)
    database.execute("SELECT pgsync.retry_job(%s)", [first])
    assert claim(session, worker) == [first]
    complete(session, worker, (first, 3))
    assert counts(database, batch) == ("ended", 2, 2, 0, 0)
    assert callbacks(database) == ["done"]


def test_old_batches_are_forgotten(clock: Clock, database: Any) -> None:
    ended, (job,) = new_batch(database, 1)
    database.execute("SELECT pgsync.cancel_job(%s)", [job])
    new_batch(database, 1)
    clock.move(6 * 86_400)
    assert database.execute("SELECT pgsync.prune_batches()").fetchone() == (0,)
    clock.move(2 * 86_400)
    assert database.execute("SELECT pgsync.prune_batches()").fetchone() == (1,)
    left = database.execute("SELECT id FROM pgsync.job_batches").fetchall()
    assert left != [(ended,)]
    assert len(left) == 1


def test_a_hundred_thousand_jobs_in_one_call(
    sync: Coordinator, database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    work = sync.task(name="work")(lambda number: None)
    done = sync.task(name="done", queue="callbacks")(lambda: None)
    jobs = (work.job(number=number) for number in range(100_000))
    batch = sync.batch("fan-out", jobs, on_end=done.job())
    assert len(batch.jobs) == 100_000
    assert counts(database, batch.id) == ("running", 100_000, 0, 0, 0)
    database.execute("ANALYZE")
    claimed = claim(session, worker, batch=1000)
    complete(session, worker, *((job, 1) for job in claimed))
    assert counts(database, batch.id) == ("running", 100_000, 1000, 0, 0)
