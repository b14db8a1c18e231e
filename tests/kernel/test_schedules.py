"""Schedules on a real database: declared once, fired once."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, InvalidArgument
from pgsync.database.drive import drive
from pgsync.database.pool import Database, execute
from pgsync.schedules import ScheduleDeclaration, declare_plan, fire_due_plan, rhythm_from
from tests.kernel.conftest import Clock
from tests.threads import at_once

pytestmark = pytest.mark.core


def declare(database: Database, rhythm: Any = 600, **changes: Any) -> bool:
    declaration = ScheduleDeclaration(
        name="tick", task="tick", rhythm=rhythm_from(rhythm, "UTC"), args={}, **changes
    )
    return bool(database.drive(declare_plan([declaration])).changed)


def fire_due(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    return drive(fire_due_plan(), partial(execute, connection))


def next_fire(database: psycopg.Connection[Any]) -> datetime:
    row = database.execute("SELECT next_fire_at FROM pgsync.schedules").fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def test_each_due_time_is_enqueued_once(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    assert declare(sync.database)
    assert sync.database.drive(fire_due_plan())[1] == 0
    clock.set(next_fire(database))
    assert sync.database.drive(fire_due_plan())[1] == 1
    assert sync.database.drive(fire_due_plan())[1] == 0
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
    at_once([fire] * 4)
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
    assert sync.database.drive(fire_due_plan())[1] == 0
    row = database.execute("SELECT state, paused_by FROM pgsync.schedules").fetchone()
    assert row == ("paused", "ops")
    assert database.execute("SELECT pgsync.run_schedule('tick')").fetchone() == (1,)
    assert database.execute("SELECT pgsync.run_schedule('no such')").fetchone() == (None,)
    assert database.execute("SELECT pgsync.resume_schedule('tick')").fetchone() == (True,)
    assert sync.database.drive(fire_due_plan())[1] == 1
    assert next_fire(database) > clock.now


def test_a_date_ends_its_schedule(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database, clock.now + timedelta(hours=1))
    clock.move(3600)
    assert sync.database.drive(fire_due_plan())[1] == 1
    row = database.execute("SELECT state, next_fire_at FROM pgsync.schedules").fetchone()
    assert row == ("ended", None)


def test_a_declared_function_is_run_by_the_daemon(face: Any) -> None:
    ran = threading.Event()
    face.schedule(1, name="tick")(lambda: ran.set())
    face.start()
    assert ran.wait(60)
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
    declare(sync.database, 1, misfire="all")
    clock.move(20)
    assert sync.database.drive(fire_due_plan())[1] == 20
    prune = "SELECT pgsync.prune_schedule_fires(keep => %s)"
    assert database.execute(prune, [15]).fetchone() == (5,)
    assert database.execute(prune, [15]).fetchone() == (0,)
    newest = "SELECT max(fire_time) FROM pgsync.schedule_fires"
    assert database.execute(newest).fetchone() == (clock.now,)
    clock.move(86_400 * 31)
    assert database.execute(prune, [15]).fetchone() == (15,)


def test_a_schedule_is_made_changed_and_removed_from_sql(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    def ask(statement: str) -> Any:
        return database.execute(statement.encode()).fetchone()

    def state() -> Any:
        return ask("SELECT state, next_fire_at, error FROM pgsync.schedules")

    assert ask("SELECT pgsync.add_schedule('s', 'report', '30 12 * * *')") == (True,)
    assert state() == ("new", None, None)
    assert sync.database.drive(fire_due_plan()) == (1, 0)
    assert state() == ("active", clock.now + timedelta(minutes=30), None)
    assert ask("SELECT pgsync.add_schedule('s', 'report', '300', 'interval')") == (False,)
    sync.database.drive(fire_due_plan())
    assert state() == ("active", clock.now + timedelta(minutes=5), None)
    assert ask("SELECT pgsync.add_schedule('s', 'report', '61 * * * *')") == (False,)
    sync.database.drive(fire_due_plan())
    assert state()[:2] == ("broken", None)
    assert "61 * * * *" in state()[2]
    assert ask("SELECT pgsync.remove_schedule('s', 'ops')") == (True,)
    assert ask("SELECT pgsync.remove_schedule('s', 'ops')") == (False,)
    removed = "SELECT action, actor, detail ->> 'expression' FROM pgsync.audit"
    assert ask(removed) == ("schedule.removed", "ops", "61 * * * *")


@pytest.mark.parametrize(
    "wrong",
    [
        *("'', 'task', '60', 'interval'", "'s', '', '60', 'interval'", "'s', 'task', '60'"),
        *("'s', 'task', 'x', 'interval'", "'s', 'task', '0', 'interval'"),
        *("'s', 'task', '-1', 'interval'", "'s', 'task', 'soon', 'date'", "'s', 'task', '', 'x'"),
        *("'s', 'task', '60', NULL", "'s', 'task', NULL", "'s', 'task', '@daily', misfire => 'no'"),
        *("'s', 'task', '@daily', timezone => 'Mars'", "'s', 't', '@daily', misfire_limit => 0"),
        *("'s', 't', '@daily', jitter => '-1 s'", "'s', 't', '@daily', args => '[]'"),
        "'s', 't', '60 from yesterdayish', 'interval'",
    ],
)
def test_sql_refuses_a_schedule_that_can_never_work(
    database: psycopg.Connection[Any], wrong: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.execute(f"SELECT pgsync.add_schedule({wrong})".encode())
    assert database.execute("SELECT count(*) FROM pgsync.schedules").fetchone() == (0,)


def test_one_broken_schedule_does_not_hold_up_the_others(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    declare(sync.database)
    database.execute("SELECT pgsync.add_schedule('broken', 'x', '0 0 30 2 * ')")
    database.execute("SELECT pgsync.add_schedule('bad', 'x', 'a b c d e')")
    clock.set(next_fire(database))
    assert sync.database.drive(fire_due_plan()) == (3, 1)
    rows = database.execute("SELECT name, state FROM pgsync.schedules ORDER BY name").fetchall()
    assert rows == [("bad", "broken"), ("broken", "ended"), ("tick", "active")]
    # What is broken is not looked at again, until it is changed.
    assert sync.database.drive(fire_due_plan()) == (0, 0)


def test_jobs_run_after_their_jitter_and_the_preview_knows_when(
    face: Any, database: psycopg.Connection[Any], clock: Clock
) -> None:
    face.add_schedule("tick", "tick", 600, jitter=300)
    fire_due(database)
    expected = face.next_fires("tick", 3)
    in_sql = database.execute("SELECT * FROM pgsync.next_fires('tick', 3)").fetchall()
    assert [(fire.fire_time, fire.run_at) for fire in expected] == in_sql
    for fire in expected:
        clock.set(fire.fire_time)
        assert fire_due(database) == (1, 1)
    rows = database.execute("SELECT run_at FROM pgsync.jobs ORDER BY id").fetchall()
    assert [run_at for (run_at,) in rows] == [fire.run_at for fire in expected]
    delays = {fire.run_at - fire.fire_time for fire in expected}
    assert len(delays) == 3
    assert all(timedelta(0) <= delay < timedelta(seconds=300) for delay in delays)


def test_the_view_tells_what_became_of_the_last_job(
    face: Any, database: psycopg.Connection[Any]
) -> None:
    face.task(name="fails", max_attempts=1)(_fail)
    face.add_schedule("nightly", "fails", "0 2 * * *", max_attempts=1)
    job = face.run_schedule("nightly")
    assert face.find_schedule("nightly").last_job_state == "available"
    face.run_worker(drain=True)
    found = face.find_schedule("nightly")
    assert (found.last_job_id, found.last_job_state) == (job, "discarded")
    fires = "SELECT schedule, by_hand, job_state FROM pgsync.schedule_fires"
    assert database.execute(fires).fetchall() == [("nightly", True, "discarded")]


def _fail() -> None:
    raise RuntimeError("it cannot work")


def test_a_pause_says_who_and_why_and_outlives_deploys(
    face: Any, database: psycopg.Connection[Any]
) -> None:
    face.add_schedule("tick", "tick", 60)
    assert face.pause_schedule("tick", by="ops", why="the report is wrong")
    assert not face.pause_schedule("tick", by="other")
    face.add_schedule("tick", "tick", 120)
    found = face.find_schedule("tick")
    assert (found.state, found.paused_by) == ("paused", "ops")
    assert found.paused_why == "the report is wrong"
    assert face.resume_schedule("tick", by="ops")
    trail = "SELECT action, actor FROM pgsync.audit ORDER BY id"
    expected = [("schedule.paused", "ops"), ("schedule.resumed", "ops")]
    assert database.execute(trail).fetchall() == expected


def test_a_daemon_of_the_former_version_fires_beside_those_of_this_one(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    # Its own words: it declares alone, and fires by the due time that it saw.
    due = clock.now + timedelta(seconds=60)
    database.execute(
        "SELECT d.changed FROM pgsync.declare_schedule('tick', 'tick', '{}', 'default', 0, 5,"
        " 'interval', '60', 'UTC', 'once', '1 minute', %s) AS d",
        [due],
    )
    database.execute("SELECT pgsync.add_schedule('new', 'x', '60', 'interval')")
    clock.set(due)
    seen = database.execute("SELECT name, next_fire_at FROM pgsync.due_schedules()").fetchall()
    assert seen == [("tick", due)]  # what this version has yet to compute is none of its
    fire = "SELECT pgsync.fire_schedule('tick', %(due)s, ARRAY[%(due)s], %(next)s)"
    later = {"due": due, "next": due + timedelta(seconds=60)}
    row = database.execute(fire, later).fetchone()
    assert row is not None
    assert len(row[0]) == 1
    assert database.execute(fire, later).fetchone() == (None,)
    assert sync.database.drive(fire_due_plan()) == (1, 0)  # the new one; the other has fired
    clock.move(60)
    assert sync.database.drive(fire_due_plan()) == (2, 2)


def test_who_takes_a_due_schedule_leaves_the_others_to_others(
    dsn: str, database: psycopg.Connection[Any], clock: Clock
) -> None:
    for number in range(3):
        database.execute("SELECT pgsync.add_schedule(%s, 'x', '60', 'interval')", [f"s{number}"])
    take = "SELECT name FROM pgsync.take_due_schedules(%s)"
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        assert first.execute(take, [2]).fetchall() == [("s0",), ("s1",)]
        assert second.execute(take, [9]).fetchall() == [("s2",)]
        first.rollback()
        assert second.execute(take, [9]).fetchall() == [("s0",), ("s1",), ("s2",)]
