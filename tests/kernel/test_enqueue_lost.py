"""An answer that is lost on the way: the job is asked for again, and is never there twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, OutcomeUnknown
from pgsync.queues import numbered
from tests.eventually import eventually
from tests.faces import Blocking
from tests.relay import Relay

pytestmark = pytest.mark.core


when = pytest.mark.parametrize(
    ("options", "table"),
    [
        ({}, "job_ready"),
        ({"delay": 600}, "job_scheduled"),
        ({"run_at": datetime(2020, 1, 1, tzinfo=UTC)}, "job_ready"),
    ],
    ids=["at once", "later", "due before"],
)


def send(n: int) -> None:
    """A handler that no test runs."""


@pytest.fixture
def relay(dsn: str) -> Iterator[Relay]:
    with Relay(dsn) as relay:
        yield relay


@pytest.fixture(params=["blocking", "asyncio"])
def far(request: pytest.FixtureRequest, relay: Relay) -> Iterator[Any]:
    """A coordinator of each face whose connections go through the relay."""
    with Blocking() as portal:
        if request.param == "blocking":
            coordinator: Any = Coordinator(relay.dsn)
        else:
            coordinator = portal.wrap(lambda: AsyncCoordinator(relay.dsn))
        yield coordinator
        coordinator.close()


def jobs(database: Any) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = database.execute(
        "SELECT id, (args ->> 'n')::int FROM pgsync.all_jobs ORDER BY 2, 1"
    ).fetchall()
    return rows


@when
def test_a_job_whose_answer_was_lost_is_there_once(
    far: Any, relay: Relay, database: Any, options: dict[str, Any], table: str
) -> None:
    task = far.task()(send).options(**options)
    first = task.enqueue(n=1)
    relay.lose_next_answer()
    second = task.enqueue(n=2)
    third = task.enqueue(n=3)
    assert second.added
    assert jobs(database) == [(first.id, 1), (second.id, 2), (third.id, 3)]
    assert database.execute("SELECT id FROM pgsync.job_asked_again").fetchall() == [(second.id,)]
    assert database.execute(f"SELECT count(*) FROM pgsync.{table}").fetchone() == (3,)


def test_a_job_that_has_run_meanwhile_is_not_added_anew(
    far: Any, relay: Relay, database: Any
) -> None:
    task = far.task()(send)
    task.enqueue(n=1)
    database.execute(
        "CREATE FUNCTION run_at_once() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.task = 'send' THEN DELETE FROM pgsync.job_ready WHERE id = new.id;"
        " INSERT INTO pgsync.job_finished (id, queue, task, args, state, priority, attempt,"
        " max_attempts, created_at, run_at, finished_at) VALUES (new.id, new.queue, new.task,"
        " new.args, 'completed', 0, 1, 5, new.created_at, new.run_at, now());"
        " END IF; RETURN NULL; END$$"
    )
    database.execute(
        "CREATE TRIGGER run_at_once AFTER INSERT ON pgsync.job_ready"
        " FOR EACH ROW EXECUTE FUNCTION run_at_once()"
    )
    relay.lose_next_answer()
    second = task.enqueue(n=2)
    assert second.added
    assert [job for job in jobs(database) if job[1] == 2] == [(second.id, 2)]


@when
def test_a_request_that_comes_late_adds_nothing(
    far: Any, relay: Relay, database: Any, options: dict[str, Any], table: str
) -> None:
    task = far.task()(send).options(**options)
    task.enqueue(n=1)
    relay.keep_next_request()
    second = task.enqueue(n=2)
    # Its id is free again in the table where the late request would write it.
    assert database.execute(
        f"WITH gone AS (DELETE FROM pgsync.{table} WHERE id = %s RETURNING *)"
        " INSERT INTO pgsync.job_finished (id, queue, task, args, state, priority, attempt,"
        " max_attempts, created_at, run_at, finished_at) SELECT id, queue, task, args, 'completed',"
        " 0, 1, 5, created_at, run_at, now() FROM gone RETURNING id",
        [second.id],
    ).fetchone() == (second.id,)
    ended = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    sessions = database.execute(ended).fetchone()[0]
    relay.deliver_kept_request()
    eventually(lambda: database.execute(ended).fetchone()[0] < sessions)
    assert [job for job in jobs(database) if job[1] == 2] == [(second.id, 2)]


@when
def test_a_request_that_is_still_under_way_is_waited_for(
    far: Any, relay: Relay, database: Any, options: dict[str, Any], table: str
) -> None:
    task = far.task()(send).options(**options)
    task.enqueue(n=1)
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.task = 'send' THEN PERFORM pg_sleep(0.5); END IF; RETURN NULL; END$$"
    )
    database.execute(
        f"CREATE TRIGGER slow AFTER INSERT ON pgsync.{table} FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    relay.cut_after_next_request()
    second = task.enqueue(n=2)
    assert second.added
    assert [job for job in jobs(database) if job[1] == 2] == [(second.id, 2)]


def test_without_an_answer_in_time_the_outcome_is_unknown(
    far: Any, relay: Relay, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbered, "_PATIENCE", 0.3)
    task = far.task()(send)
    task.enqueue(n=1)
    relay.refuse_after_next_answer()
    with pytest.raises(OutcomeUnknown, match="asking again failed too"):
        task.enqueue(n=2)
    assert [n for _, n in jobs(database)] == [1, 2]


def test_asking_again_on_a_server_that_forgot_the_ids_draws_others(database: Any) -> None:
    """As a standby does that took over without the last transactions."""
    other = database.execute("SELECT pgsync.enqueue('other')").fetchone()[0]
    ask = "SELECT pgsync.add_numbered_jobs_again(%s::jsonb)"
    taken = (
        f'[[{other},"send",{{"n":1}},"default",0,5],[{other + 1},"send",{{"n":2}},"default",0,5]]'
    )
    ids = database.execute(ask, [taken]).fetchone()[0]
    assert ids == [other + 1, other + 2]
    not_drawn = f'[[{other + 1000},"send",{{"n":3}},"default",0,5]]'
    assert database.execute(ask, [not_drawn]).fetchone()[0] == [other + 3]
    assert [n for _, n in jobs(database)] == [1, 2, 3, None]


def test_asking_again_needs_the_newest_snapshot(database: Any) -> None:
    database.execute("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="read committed"):
        database.execute('SELECT pgsync.add_numbered_jobs_again(\'[[1,"a",{},"q",0,5]]\')')


def test_what_was_asked_for_again_is_forgotten_in_time(database: Any) -> None:
    ask = "SELECT pgsync.add_numbered_jobs_again(%s::jsonb)"
    first, second = database.execute("SELECT pgsync.job_numbers(2)").fetchone()[0]
    database.execute(ask, [f'[[{first},"send",{{}},"default",0,5]]'])
    database.execute("UPDATE pgsync.job_asked_again SET at = at - interval '25 hours'")
    database.execute(ask, [f'[[{second},"send",{{}},"default",0,5]]'])
    assert database.execute("SELECT id FROM pgsync.job_asked_again").fetchall() == [(second,)]
