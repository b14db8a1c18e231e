"""Editing a job that waits: what is changed, what is refused, and the trail that it leaves."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually

pytestmark = pytest.mark.core


def add(database: Any, **options: Any) -> int:
    names = ", ".join(f"{name} => %({name})s" for name in options)
    query = f"SELECT pgsync.enqueue('send', '{{\"n\": 1}}'{names and ', ' + names})"
    job: int = database.execute(query, options).fetchone()[0]
    return job


def edit(database: Any, job: int, **changes: Any) -> Any:
    given = "".join(f", {name} => %({name})s" for name in changes)
    query = f"SELECT edited, state FROM pgsync.edit_job(%(id)s, by => 'ada'{given})"
    return database.execute(query, {"id": job, **changes}).fetchone()


def seen(database: Any, job: int) -> Any:
    query = "SELECT args, priority, state, run_at > pgsync.clock() FROM pgsync.jobs WHERE id = %s"
    return database.execute(query, [job]).fetchone()


def worker(database: Any) -> int:
    register = "SELECT pgsync.register_worker('w', 'h', 1, '0', '{default}', 1)"
    number: int = database.execute(register).fetchone()[0]
    return number


def test_arguments_priority_and_time_are_changed_and_audited(database: Any) -> None:
    job = add(database)
    assert edit(database, job, args='{"n": 2, "to": "ada"}', priority=-3) == (True, "available")
    assert seen(database, job) == ({"n": 2, "to": "ada"}, -3, "available", False)
    assert edit(database, job, run_at="2999-01-01") == (True, "scheduled")
    assert seen(database, job) == ({"n": 2, "to": "ada"}, -3, "scheduled", True)
    assert edit(database, job, run_at="2000-01-01") == (True, "available")
    trail = database.execute(
        "SELECT actor, action, subject, detail FROM pgsync.audit ORDER BY id"
    ).fetchall()
    assert [row[:3] for row in trail] == [("ada", "job.edited", f"job {job}")] * 3
    assert trail[0][3] == {"args": ["n", "to"], "priority": [0, -3]}
    assert list(trail[1][3]) == ["run_at"]


def test_what_changes_nothing_leaves_no_trace(database: Any) -> None:
    job = add(database)
    assert edit(database, job, args='{"n": 1}', priority=0) == (False, "available")
    assert edit(database, job) == (False, "available")
    assert database.execute("SELECT count(*) FROM pgsync.audit").fetchone() == (0,)


def test_a_job_that_runs_has_ended_or_never_was_is_left_alone(database: Any) -> None:
    job, own = add(database), worker(database)
    database.execute("SELECT pgsync.claim_jobs(%s, '{default}', 1)", [own])
    assert edit(database, job, args='{"n": 2}') == (False, "running")
    database.execute("SELECT pgsync.complete_job(%s, %s, 1)", [own, job])
    assert edit(database, job, args='{"n": 2}') == (False, "completed")
    assert edit(database, 10**9, args='{"n": 2}') == (False, None)


def test_arguments_that_somebody_else_has_changed_are_not_written_over(database: Any) -> None:
    job = add(database)
    assert edit(database, job, args='{"n": 2}', was='{"n": 1}') == (True, "available")
    assert edit(database, job, args='{"n": 3}', was='{"n": 1}') == (False, "available")
    assert seen(database, job)[0] == {"n": 2}


def test_a_claim_passes_over_a_job_that_is_being_edited(dsn: str, database: Any) -> None:
    job, own = add(database), worker(database)
    claim = "SELECT id FROM pgsync.claim_jobs(%s, '{default}', 1)"
    with psycopg.connect(dsn) as other:
        assert edit(other, job, args='{"n": 2}') == (True, "available")
        assert database.execute(claim, [own]).fetchall() == []
        other.commit()
    assert database.execute(claim, [own]).fetchall() == [(job,)]
    assert seen(database, job)[0] == {"n": 2}


def test_an_edit_waits_for_a_claim_and_then_is_too_late(dsn: str, database: Any) -> None:
    job, own = add(database), worker(database)
    answers: list[Any] = []
    with psycopg.connect(dsn, autocommit=True) as session, psycopg.connect(dsn) as other:
        other.execute("SELECT pgsync.claim_jobs(%s, '{default}', 1)", [own])
        editing = threading.Thread(target=lambda: answers.append(edit(session, job, priority=1)))
        editing.start()
        waits = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
        pid = session.info.backend_pid
        eventually(lambda: database.execute(waits, [pid]).fetchone() == ("Lock",), 30)
        other.commit()
        editing.join(30)
    assert answers == [(False, "running")]
    assert database.execute("SELECT count(*) FROM pgsync.audit").fetchone() == (0,)


def test_a_job_that_waits_for_others_has_no_time_to_set(database: Any) -> None:
    first = add(database, run_at="2999-01-01")
    job, own = add(database, after=[first]), worker(database)
    database.execute("SELECT pgsync.claim_jobs(%s, '{default}', 1)", [own])
    assert seen(database, job)[2] == "waiting"
    with pytest.raises(psycopg.DataError, match="not for a time"):
        edit(database, job, run_at="2999-01-01")
    assert edit(database, job, args='{"n": 5}', priority=7) == (True, "waiting")
    assert seen(database, job) == ({"n": 5}, 7, "waiting", False)


@pytest.mark.parametrize(
    "wrong", [{"args": "[]"}, {"args": '"x"'}, {"priority": 40_000}, {"args": "null"}]
)
def test_what_no_job_can_be_is_refused(database: Any, wrong: dict[str, Any]) -> None:
    job = add(database)
    with pytest.raises(psycopg.DataError):
        edit(database, job, **wrong)
    assert seen(database, job) == ({"n": 1}, 0, "available", False)


def test_encrypted_arguments_stay_and_the_rest_may_change(database: Any) -> None:
    query = "SELECT pgsync.enqueue('send', '{\"pgsync:sealed\": \"x\"}')"
    job = database.execute(query).fetchone()[0]
    with pytest.raises(psycopg.DataError, match="encrypted"):
        edit(database, job, args="{}")
    assert edit(database, job, priority=2) == (True, "available")


def test_a_job_added_by_hand_is_in_the_trail(database: Any) -> None:
    job = database.execute("SELECT pgsync.enqueue_by('ada', 'send', '{}', 'mail')").fetchone()[0]
    trail = database.execute("SELECT actor, action, subject, detail FROM pgsync.audit")
    detail = {"task": "send", "queue": "mail"}
    assert trail.fetchall() == [("ada", "job.enqueued", f"job {job}", detail)]
