"""Duties are done once at a time over all daemons, and each is seen with its last run."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgsync import Coordinator
from pgsync.cli.main import cli
from pgsync.daemon.maintenance import LANES, Lane, Maintenance
from tests.eventually import eventually

pytestmark = pytest.mark.core


@pytest.fixture
def maintain(dsn: str) -> Iterator[Callable[[Lane], None]]:
    """Starts loops of maintenance, as so many daemons have."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    tasks: list[asyncio.Task[None]] = []

    async def start(lane: Lane) -> None:
        tasks.append(asyncio.create_task(Maintenance(dsn, lane).run()))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, psycopg.Error, Exception):
                await task

    yield lambda lane: asyncio.run_coroutine_threadsafe(start(lane), loop).result(60)
    asyncio.run_coroutine_threadsafe(stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def seen(database: psycopg.Connection[Any], duty: str) -> Any:
    query = (
        "SELECT outcome, rows, done_total, failures, error FROM pgsync.maintenance WHERE duty = %s"
    )
    return database.execute(query, [duty]).fetchone()


def only_duty(
    database: psycopg.Connection[Any], statement: str, every: str = "0.5 s", slow: str = "SELECT 0"
) -> None:
    """Leave the duties ``test``, and ``slow`` and ``other`` of the other lane, in the table."""
    database.execute(
        "CREATE OR REPLACE FUNCTION pgsync.duties() RETURNS TABLE (duty text, lane text,"
        " every interval, again interval, statement text) LANGUAGE sql IMMUTABLE AS $$ VALUES"
        f" ('test', 'quick', interval '{every}', NULL::interval, '{statement}'),"
        f" ('slow', 'slow', interval '1 s', NULL, '{slow}'),"
        " ('other', 'slow', interval '1 s', NULL, 'SELECT 1') $$".encode()
    )


def test_every_duty_can_be_done_and_each_is_seen(database: psycopg.Connection[Any]) -> None:
    names = [name for (name,) in database.execute("SELECT duty FROM pgsync.duties()")]
    done = database.execute("CALL pgsync.do_duties(%s, 'me')", [names]).fetchone()
    assert done is not None
    assert not [name for name, answer in done[0].items() if isinstance(answer, str)]
    rows = database.execute("SELECT duty, outcome, by FROM pgsync.maintenance").fetchall()
    assert {row[1:] for row in rows if row[0] in names} == {("done", "me")}
    assert [row for row in rows if row[0] not in names] == [("fire schedules", "never run", None)]


def test_all_that_prunes_is_a_duty(database: psycopg.Connection[Any]) -> None:
    functions = database.execute(
        "SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'pgsync'::regnamespace"
        " AND p.proname LIKE 'prune\\_%'"
    )
    statements = database.execute("SELECT string_agg(statement, ' ') FROM pgsync.duties()")
    row = statements.fetchone()
    assert row is not None
    done = set(re.findall(r"pgsync\.(\w+)\(", row[0]))
    assert {name for (name,) in functions} <= done


def test_one_that_fails_is_noted_and_does_not_stop_the_next(
    database: psycopg.Connection[Any],
) -> None:
    database.execute(
        "CREATE OR REPLACE FUNCTION pgsync.reap_locks() RETURNS integer LANGUAGE sql AS"
        " $$ SELECT 1 / 0 $$"
    )
    names = ["end holders past their deadline", "promote due jobs"]
    database.execute("SELECT pgsync.enqueue('t', delay => '1 millisecond')")
    database.execute("SELECT pg_sleep(0.01)")
    for _ in range(2):
        row = database.execute("CALL pgsync.do_duties(%s)", [names]).fetchone()
    assert row is not None
    assert row[0] == {names[0]: "division by zero (22012)"}
    assert seen(database, names[0]) == ("failed", 0, 0, 2, "division by zero (22012)")
    assert seen(database, names[1])[2] == 1
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no duty"):
        database.execute("CALL pgsync.do_duties(ARRAY['sing'])")


def test_what_found_nothing_is_noted_once_a_minute(database: psycopg.Connection[Any]) -> None:
    def rows_written() -> Any:
        return database.execute("SELECT xmin, last_run_at FROM pgsync.duty_run").fetchall()

    call = "CALL pgsync.do_duties(ARRAY['promote due jobs'])"
    database.execute(call)
    first = rows_written()
    database.execute(call)
    assert rows_written() == first
    database.execute("UPDATE pgsync.duty_run SET last_run_at = last_run_at - interval '2 minutes'")
    database.execute(call)
    assert rows_written() != first


def test_a_duty_is_never_done_twice_at_once(
    database: psycopg.Connection[Any], dsn: str, maintain: Any
) -> None:
    # Whoever does it says so in a table; a second one at the same time would find the row.
    database.execute("CREATE TABLE busy (one boolean PRIMARY KEY DEFAULT true)")
    database.execute("CREATE TABLE runs (pid integer)")
    database.execute(
        "CREATE FUNCTION work() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO runs VALUES (pg_backend_pid());"
        " IF NOT pg_try_advisory_lock(42) THEN RAISE 'two at once'; END IF;"
        " PERFORM pg_sleep(0.01); PERFORM pg_advisory_unlock(42); RETURN 1; END $$"
    )
    only_duty(database, "SELECT work()", "1 ms")
    # Five daemons, and somebody by hand who does not care who leads.
    for _ in range(5):
        maintain(LANES[0])
    stop = threading.Event()

    def by_hand() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("CALL pgsync.do_duties(ARRAY['test'])")

    hands = [threading.Thread(target=by_hand) for _ in range(2)]
    for hand in hands:
        hand.start()
    eventually(lambda: (seen(database, "test")[2] or 0) >= 100)
    stop.set()
    for hand in hands:
        hand.join()
    assert seen(database, "test")[3:] == (0, None)
    pids = database.execute("SELECT count(DISTINCT pid) FROM runs").fetchone()
    assert pids is not None
    assert pids[0] >= 2


def test_when_the_leader_goes_another_leads(
    database: psycopg.Connection[Any], maintain: Any
) -> None:
    only_duty(database, "SELECT pg_backend_pid()", "10 ms")
    pid = "SELECT rows FROM pgsync.maintenance WHERE duty = 'test'"
    for _ in range(3):
        maintain(LANES[0])

    def leader() -> int:
        row = database.execute(pid).fetchone()
        return (row and row[0]) or 0

    led = []
    for _ in range(2):
        led.append(eventually(lambda: leader() not in led and leader()))
        database.execute("SELECT pg_terminate_backend(%s)", [led[-1]])
    assert eventually(lambda: leader() not in led and leader())


def test_a_leader_that_is_frozen_is_followed(
    database: psycopg.Connection[Any], maintain: Any
) -> None:
    only_duty(database, "SELECT 1")
    with psycopg.connect(database.info.dsn, autocommit=True) as frozen:
        # As a leader that hangs between two calls: its session says nothing any more.
        frozen.execute("SET idle_session_timeout = '300ms'")
        assert frozen.execute("SELECT pgsync.lead_maintenance()").fetchone() == (True,)
        maintain(LANES[0])
        eventually(lambda: seen(database, "test")[0] == "done")
    bounds = "SELECT setting FROM pg_settings WHERE name = 'idle_session_timeout'"
    assert database.execute(bounds).fetchone() == ("0",)


def test_lanes_do_not_wait_for_each_other(database: psycopg.Connection[Any], maintain: Any) -> None:
    only_duty(database, "SELECT 1", slow="SELECT 1 FROM pg_sleep(600)")
    sleeps = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND application_name = 'pgsync maintenance slow'"
        " AND datname = current_database()"
    )
    for lane in LANES:
        maintain(lane)
    eventually(lambda: database.execute(sleeps).fetchone())
    database.execute("TRUNCATE pgsync.duty_run")
    eventually(lambda: seen(database, "test")[0] == "done")
    # One that takes too long is cut off, noted, and keeps nothing else from being done.
    cut_off = f"SELECT pg_cancel_backend(pid) FROM ({sleeps}) AS s"
    eventually(lambda: database.execute(cut_off.encode()) and seen(database, "slow")[0] == "failed")
    assert "cancelled" in seen(database, "slow")[4]
    eventually(lambda: seen(database, "other")[0] == "done")
    assert seen(database, "other")[3] == 0


def test_a_daemon_that_was_cut_off_takes_up_again(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    sync.schedule(1, name="tick", misfire="all")(lambda: None)
    sync.start()

    def all_loops() -> set[str]:
        rows = database.execute(
            "SELECT application_name, pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name ~ '^pgsync (maintenance|scheduler)'"
        ).fetchall()
        return {f"{name} {pid}" for name, pid in rows} if len(rows) == 3 else set()

    first = eventually(all_loops)
    eventually(lambda: seen(database, "promote due jobs")[0] == "done")
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    database.execute("TRUNCATE pgsync.duty_run")
    assert not eventually(all_loops) & first
    eventually(lambda: seen(database, "promote due jobs")[0] == "done")
    eventually(lambda: seen(database, "fire schedules")[4])  # why it was cut off is told
    sync.stop()


def test_the_command_line_shows_the_duties(database: psycopg.Connection[Any], dsn: str) -> None:
    def run() -> tuple[int, dict[str, str]]:
        done = CliRunner().invoke(cli, ["maintenance", "--json", "--dsn", dsn])
        return done.exit_code, {row["duty"]: row["outcome"] for row in json.loads(done.output)}

    assert run()[0] == 0
    database.execute("SELECT pgsync.record_duty('drop old history', 'me', now(), '1 s', 0, 'no')")
    code, duties = run()
    assert (code, duties["drop old history"]) == (4, "failed")
    assert next(iter(duties)) == "drop old history"
