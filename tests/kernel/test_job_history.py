"""What remains of a job: its end, each attempt, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.kernel.by_hand import claim, complete, enqueue, fail, state
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def test_history_has_a_partition_a_day_and_old_ones_are_dropped(
    database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    made = database.execute("SELECT pgsync.prepare_history(2)").fetchone()[0]
    assert made == 3
    assert database.execute("SELECT pgsync.prepare_history(2)").fetchone() == (0,)
    for _ in range(3):
        job = enqueue(database)
        claim(session, worker)
        complete(session, worker, (job, 1))
        clock.move(86_400)
    where = (
        "SELECT c.relname FROM pgsync.job_finished AS f JOIN pg_class AS c ON c.oid = f.tableoid"
        " ORDER BY f.finished_at"
    )
    days = [f"job_finished_2026030{day}" for day in (1, 2, 3)]
    assert [row[0] for row in database.execute(where)] == days
    assert database.execute("SELECT pgsync.prune_history('37 hours')").fetchone() == (1,)
    assert [row[0] for row in database.execute(where)] == days[1:]


def test_history_without_a_partition_is_kept_and_pruned_too(
    database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    job = enqueue(database)
    claim(session, worker)
    complete(session, worker, (job, 1))
    assert state(database, job) == ("completed", 1)
    # The day of that row cannot have its partition any more, the following ones can.
    assert database.execute("SELECT pgsync.prepare_history(2)").fetchone() == (2,)
    clock.move(20 * 86_400)
    database.execute("SELECT pgsync.prune_history()")
    assert database.execute("SELECT count(*) FROM pgsync.job_finished").fetchone() == (0,)


def test_a_reader_of_history_holds_up_neither_completions_nor_itself(
    database: Any, dsn: str, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    session.execute("SET statement_timeout = '5 s'")
    database.execute("SELECT pgsync.prepare_history(0)")
    clock.move(30 * 86_400)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM pgsync.job_history")
        # It is tried again when nobody reads.
        assert database.execute("SELECT pgsync.prepare_history(0)").fetchone() == (0,)
        assert database.execute("SELECT pgsync.prune_history()").fetchone() == (0,)
        job = enqueue(database)
        claim(session, worker)
        assert complete(session, worker, (job, 1)) == [job]
    assert database.execute("SELECT pgsync.prune_history()").fetchone()[0] >= 1


def test_each_queue_keeps_its_jobs_as_long_as_it_says(
    database: Any, face: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    face.retain_queue("short", 3600)
    face.retain_queue("long", timedelta(days=30))
    database.execute("SELECT pgsync.prepare_history(1)")
    jobs = {queue: enqueue(database, queue) for queue in ("short", "default", "long")}
    claim(session, worker, queues=list(jobs))
    complete(session, worker, *((job, 1) for job in jobs.values()))

    def kept() -> list[str]:
        rows = database.execute("SELECT queue FROM pgsync.job_history ORDER BY id").fetchall()
        return [row[0] for row in rows]

    clock.move(3601)
    assert database.execute("SELECT pgsync.prune_queue_history()").fetchone() == (1,)
    assert kept() == ["default", "long"]
    clock.move(9 * 86_400)
    database.execute("SELECT pgsync.prune_history()")
    assert database.execute("SELECT pgsync.prune_queue_history()").fetchone() == (1,)
    assert kept() == ["long"]
    face.retain_queue("long", None)
    database.execute("SELECT pgsync.prune_history()")
    assert kept() == []


def test_every_attempt_is_readable_with_its_worker_times_and_error(
    database: Any, new_worker: Any, clock: Clock
) -> None:
    (session, worker), (dying, other) = new_worker(), new_worker()
    began = clock.now
    job = enqueue(database)
    claim(session, worker)
    clock.move(2)
    fail(session, worker, job, 1)
    claim(dying, other)
    clock.move(3)
    database.execute("SELECT pgsync.give_back_jobs(%s, 'the worker died')", [other])
    claim(session, worker)
    at = "SELECT attempt, worker, started_at, ended_at, outcome, error FROM pgsync.job_attempts"
    read = f"{at} WHERE job = %s ORDER BY attempt"
    second, fifth = (began + timedelta(seconds=seconds) for seconds in (2, 5))
    ended = [
        (1, worker, began, second, "failed", "no"),
        (2, other, second, fifth, "failed", "the worker died"),
    ]
    running = (3, worker, fifth, None, "running", None)
    assert database.execute(read, [job]).fetchall() == [*ended, running]
    complete(session, worker, (job, 3))
    completed = (3, worker, fifth, fifth, "completed", None)
    assert database.execute(read, [job]).fetchall() == [*ended, completed]


def test_one_view_has_live_and_ended_jobs(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    jobs = [enqueue(database, key="k", key_limit=1) for _ in range(2)]
    claim(session, worker)
    complete(session, worker, (jobs[0], 1))
    claim(session, worker)
    late = enqueue(database, delay=timedelta(days=1))
    waiting = [enqueue(database, key="k", key_limit=1)]
    claim(session, worker)
    rows = database.execute("SELECT id, state FROM pgsync.all_jobs ORDER BY id").fetchall()
    assert rows == [
        (jobs[0], "completed"),
        (jobs[1], "running"),
        (late, "scheduled"),
        (waiting[0], "waiting"),
    ]
