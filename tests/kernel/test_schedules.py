"""Schedules on a real database: declared once, fired once."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, InvalidArgument
from pgsync.database.pool import Database
from pgsync.schedules import ScheduleDeclaration, declare_plan, fire_due_plan, rhythm_from
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def declare(database: Database, rhythm: Any = 600, **changes: Any) -> bool:
    declaration = ScheduleDeclaration(
        name="tick", task="tick", rhythm=rhythm_from(rhythm, "UTC"), args={}, **changes
    )
    return database.drive(declare_plan(declaration))


def next_fire(database: psycopg.Connection[Any]) -> datetime:
    row = database.execute("SELECT next_fire_at FROM pgsync.schedules").fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def test_each_due_time_is_enqueued_once(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    assert declare(sync.database)
    assert sync.database.drive(fire_due_plan()) == 0
    clock.set(next_fire(database))
    assert sync.database.drive(fire_due_plan()) == 1
    assert sync.database.drive(fire_due_plan()) == 0
    # A daemon that saw an earlier due time comes too late, and must not move the schedule back.
    late = "SELECT pgsync.fire_schedule('tick', %(due)s, ARRAY[%(due)s], %(due)s)"
    due = clock.now - timedelta(seconds=600)
    assert database.execute(late, {"due": due}).fetchone() == (None,)
    row = database.execute(
        "SELECT f.fire_time, j.task FROM pgsync.schedule_fire AS f"
        " JOIN pgsync.jobs AS j ON j.id = f.job_id"
    ).fetchall()
    assert row == [(clock.now, "tick")]
    assert next_fire(database) == clock.now + timedelta(seconds=600)


def test_many_schedulers_fire_each_due_time_once(
    sync: Coordinator, dsn: str, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database, misfire="all", misfire_grace=timedelta(days=1))
    start = next_fire(database)
    barrier = threading.Barrier(4)

    def fire() -> None:
        daemon = Database(dsn)
        for _ in range(10):
            barrier.wait(20)
            daemon.drive(fire_due_plan())
            if barrier.wait(20) == 0:
                clock.set(clock.now + timedelta(seconds=1200))
        daemon.close()

    clock.set(start)
    threads = [threading.Thread(target=fire) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    fired = database.execute("SELECT fire_time FROM pgsync.schedule_fire ORDER BY 1").fetchall()
    assert fired == [(start + timedelta(seconds=600 * n),) for n in range(19)]
    assert database.execute("SELECT count(*) FROM pgsync.jobs").fetchone() == (19,)


def test_a_redeploy_keeps_the_next_fire_and_a_new_rhythm_does_not(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database)
    first = next_fire(database)
    clock.move(5000)
    assert not declare(sync.database)
    assert declare(sync.database, queue="other")
    assert next_fire(database) == first
    assert declare(sync.database, 60)
    assert next_fire(database) == clock.now + timedelta(seconds=60 - clock.now.timestamp() % 60)


def test_a_paused_schedule_fires_when_run_by_hand_only(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database, misfire="once")
    assert database.execute("SELECT pgsync.pause_schedule('tick', 'ops')").fetchone() == (True,)
    assert database.execute("SELECT pgsync.pause_schedule('tick')").fetchone() == (False,)
    clock.move(5000)
    assert sync.database.drive(fire_due_plan()) == 0
    row = database.execute("SELECT state, paused_by FROM pgsync.schedules").fetchone()
    assert row == ("paused", "ops")
    assert database.execute("SELECT pgsync.run_schedule('tick')").fetchone() == (1,)
    assert database.execute("SELECT pgsync.run_schedule('no such')").fetchone() == (None,)
    assert database.execute("SELECT pgsync.resume_schedule('tick')").fetchone() == (True,)
    assert sync.database.drive(fire_due_plan()) == 1
    assert next_fire(database) > clock.now


def test_a_date_ends_its_schedule(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database, clock.now + timedelta(hours=1))
    clock.move(3600)
    assert sync.database.drive(fire_due_plan()) == 1
    row = database.execute("SELECT state, next_fire_at FROM pgsync.schedules").fetchone()
    assert row == ("ended", None)


def test_a_declared_function_is_run_by_the_daemon(face: Any) -> None:
    ran = threading.Event()
    face.schedule(1, name="tick")(lambda: ran.set())
    face.start()
    assert ran.wait(20)
    face.stop()


def test_a_schedule_that_cannot_work_is_refused(sync: Coordinator) -> None:
    with pytest.raises(InvalidArgument, match="missing a required argument"):
        sync.schedule(60)(lambda needed: None)
    with pytest.raises(InvalidArgument, match="misfire"):
        sync.schedule(60, name="a", misfire="sometimes")(lambda: None)
    with pytest.raises(InvalidArgument, match="crontab"):
        sync.schedule("sometimes", name="b")(lambda: None)


def test_old_fires_are_forgotten(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database)
    clock.set(next_fire(database))
    sync.database.drive(fire_due_plan())
    clock.move(86_400 * 8)
    assert database.execute("SELECT pgsync.prune_schedule_fires()").fetchone() == (1,)
