"""Batches: jobs that are counted together, and what is enqueued when all of them have ended."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, DiscardJob, InvalidArgument, current_job
from tests.kernel.test_jobs import claim, complete

pytestmark = pytest.mark.core


def test_a_batch_is_counted_and_calls_back_once_at_its_end(face: Any, database: Any) -> None:
    told: list[str] = []

    @face.task(name="part")
    def part(n: int) -> None:
        if n == 2:
            raise DiscardJob("no")

    ended = face.task(name="ended")(lambda what: told.append(what))
    jobs = [part.job(n=n) for n in range(4)]
    batch = face.batch(
        "import",
        jobs,
        on_end=ended.job(what="end"),
        on_completed=ended.job(what="all completed"),
    )
    state = face.batch_state(batch.id)
    assert (state.state, state.total, state.unfinished, state.progress) == ("running", 4, 4, 0.0)
    report = face.run_worker(drain=True)
    assert (report.completed, report.discarded) == (4, 1)
    state = face.batch_state(batch.id)
    assert (state.state, state.completed, state.discarded, state.progress) == ("ended", 3, 1, 1.0)
    assert told == ["end"]
    assert len(state.callbacks) == 1


def test_where_all_completed_it_says_so_and_an_empty_batch_ends_at_once(
    face: Any, database: Any
) -> None:
    told: list[str] = []
    part = face.task(name="part")(lambda: None)
    ended = face.task(name="ended")(lambda what: told.append(what))
    face.batch("full", [part.job()], on_completed=ended.job(what="full"))
    empty = face.batch("empty", [], on_completed=ended.job(what="empty"))
    assert face.batch_state(empty.id).state == "ended"
    face.run_worker(drain=True)
    assert sorted(told) == ["empty", "full"]


def test_a_running_job_adds_to_its_batch(face: Any, database: Any) -> None:
    told: list[str] = []
    part = face.task(name="part")(lambda: None)

    @face.task(name="more")
    def more() -> None:
        with psycopg.connect(database.info.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pgsync.enqueue('part', batch => %s)", [current_job().job.batch]
            )

    ended = face.task(name="ended")(lambda: told.append("ended"))
    batch = face.batch("growing", [more.job(), part.job()], on_end=ended.job())
    assert face.run_worker(drain=True).completed == 4
    state = face.batch_state(batch.id)
    assert (state.state, state.total, state.completed) == ("ended", 3, 3)
    assert told == ["ended"]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="has ended"):
        database.execute("SELECT pgsync.enqueue('part', batch => %s)", [batch.id])


def test_a_rolled_back_batch_never_was(sync: Coordinator, database: Any, dsn: str) -> None:
    part = sync.task(name="part")(lambda: None)
    with psycopg.connect(dsn) as connection:
        batch = sync.batch("gone", [part.job()], within=connection)
        connection.rollback()
    assert sync.batch_state(batch.id) is None
    assert database.execute("SELECT count(*) FROM pgsync.jobs").fetchone() == (0,)


def test_last_jobs_that_end_at_once_enqueue_one_callback(
    database: Any, face: Any, new_worker: Any
) -> None:
    part = face.task(name="part")(lambda: None)
    ended = face.task(name="ended")(lambda: None)
    workers = [new_worker() for _ in range(6)]
    batch = face.batch("race", [part.job() for _ in workers], on_end=ended.job())
    claimed = [claim(*worker, batch=1) for worker in workers]
    start = threading.Barrier(len(workers))

    def finish(place: int) -> None:
        start.wait(10)
        complete(*workers[place], (claimed[place][0], 1))

    threads = [threading.Thread(target=finish, args=[place]) for place in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    rows = database.execute("SELECT task FROM pgsync.jobs").fetchall()
    assert rows == [("ended",)]
    assert face.batch_state(batch.id).state == "ended"


def test_what_is_no_job_is_refused(face: Any) -> None:
    part = face.task(name="part")(lambda: None)
    with pytest.raises(InvalidArgument, match=r"task\.job"):
        face.batch("wrong", [part])
    with pytest.raises(InvalidArgument, match=r"task\.job"):
        face.batch("wrong", [part.job()], on_end="part")
    with pytest.raises(InvalidArgument, match="only"):
        face.batch("wrong", [], on_end=part.options(delay=1).job())
