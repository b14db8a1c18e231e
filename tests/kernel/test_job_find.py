"""Jobs are found by what people know of them, and acted on all at once, with one audit entry."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.core


def _enqueue(database: psycopg.Connection[Any], task: str, **more: Any) -> int:
    row = database.execute(
        "SELECT pgsync.enqueue(%s, %s::jsonb, queue => %s, run_at => %s)",
        [task, json.dumps(more.get("args", {})), more.get("queue", "q"), more.get("run_at")],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _find(
    database: psycopg.Connection[Any], filter: dict[str, Any], **most: int
) -> tuple[list[int], int | None, bool]:
    row = database.execute(
        "SELECT f.ids, f.next_before, f.looked_at_all FROM"
        " pgsync.find_jobs(%s::jsonb, %s, %s, %s) AS f",
        [json.dumps(filter), most.get("before"), most.get("most", 50), most.get("look", 10000)],
    ).fetchone()
    assert row is not None
    return row


@pytest.fixture
def various(database: psycopg.Connection[Any]) -> dict[str, int]:
    """A job in each of some states, by name."""
    jobs = {
        "available": _enqueue(database, "send", args={"to": {"city": "Köln"}, "n": 1}),
        "scheduled": _enqueue(database, "send", run_at="2100-01-01 00:00Z"),
        "discarded": _enqueue(database, "report", args={"n": 2}),
        "cancelled": _enqueue(database, "report", queue="other"),
    }
    database.execute("SELECT pgsync.discard_job(%s, 'no use')", [jobs["discarded"]])
    database.execute("SELECT pgsync.cancel_job(%s)", [jobs["cancelled"]])
    return jobs


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        ({}, {"available", "scheduled", "discarded", "cancelled"}),
        ({"states": ["discarded", "cancelled"]}, {"discarded", "cancelled"}),
        ({"states": ["retryable"]}, set()),
        ({"queue": "other"}, {"cancelled"}),
        ({"task": "send"}, {"available", "scheduled"}),
        ({"text": "REPO"}, {"discarded", "cancelled"}),
        ({"args": {"n": "1"}}, {"available"}),
        ({"args": {"to.city": "Köln"}}, {"available"}),
        ({"args": {"n": "1"}, "task": "report"}, set()),
        ({"since": "2000-01-01"}, {"available", "scheduled", "discarded", "cancelled"}),
        ({"since": "2100-01-01"}, set()),
    ],
)
def test_all_that_a_filter_says_must_fit(
    filter: dict[str, Any],
    names: set[str],
    various: dict[str, int],
    database: psycopg.Connection[Any],
) -> None:
    assert set(_find(database, filter)[0]) == {various[name] for name in names}


@pytest.mark.parametrize(
    "wrong", [[], {"stat": ["running"]}, {"states": ["done"]}, {"states": "running"}, {"args": 1}]
)
def test_a_filter_that_cannot_be_read_is_refused(
    wrong: Any, database: psycopg.Connection[Any]
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        _find(database, wrong)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.execute("SELECT pgsync.retry_jobs(%s::jsonb)", [json.dumps(wrong)])


def test_pages_show_each_job_once_however_short_each_look_is(
    database: psycopg.Connection[Any],
) -> None:
    jobs = [_enqueue(database, "t", args={"odd": n % 2}) for n in range(40)]
    for job in jobs[::3]:
        database.execute("SELECT pgsync.cancel_job(%s)", [job])
    seen: list[int] = []
    before: int | None = 2**62
    while before is not None:
        page, before, _ = _find(database, {"args": {"odd": "1"}}, before=before, most=3, look=4)
        seen += page
    assert seen == jobs[1::2][::-1]


def test_an_action_by_a_filter_leaves_the_others_alone_and_one_audit_entry(
    various: dict[str, int], database: psycopg.Connection[Any]
) -> None:
    retried = database.execute(
        "SELECT changed, passed_over FROM pgsync.retry_jobs('{\"queue\": \"q\"}', by => 'ann')"
    )
    assert retried.fetchone() == (1, 0)
    states = dict(database.execute("SELECT id, state FROM pgsync.all_jobs").fetchall())
    assert states[various["discarded"]] == "available"
    assert states[various["cancelled"]] == "cancelled"
    assert states[various["scheduled"]] == "scheduled"
    entries = database.execute("SELECT action, actor, detail FROM pgsync.audit").fetchall()
    assert entries == [
        ("job.retried", "ann", {"filter": {"queue": "q"}, "jobs": [various["discarded"]]})
    ]
    database.execute("SELECT pgsync.retry_jobs(ids => ARRAY[-1])")
    assert database.execute("SELECT count(*) FROM pgsync.audit").fetchone() == (1,)


def test_no_more_than_most_are_cancelled_the_newest_first(
    database: psycopg.Connection[Any],
) -> None:
    jobs = [_enqueue(database, "t") for _ in range(5)]
    database.execute("SELECT pgsync.cancel_jobs('{}', most => 2)")
    assert _find(database, {"states": ["cancelled"]})[0] == jobs[:2:-1]
    gone = database.execute(
        "SELECT changed, passed_over FROM pgsync.discard_jobs(ids => %s::bigint[])", [jobs[2:]]
    )
    assert gone.fetchone() == (1, 2)


def test_a_job_whose_unique_key_is_taken_is_passed_over(
    database: psycopg.Connection[Any],
) -> None:
    enqueue = "SELECT pgsync.enqueue('t', unique_key => 'one')"
    database.execute(enqueue)
    database.execute("SELECT pgsync.cancel_jobs('{}')")
    database.execute(enqueue)
    lone = _enqueue(database, "t")
    database.execute("SELECT pgsync.cancel_job(%s)", [lone])
    retried = database.execute("SELECT changed, passed_over FROM pgsync.retry_jobs('{}')")
    assert retried.fetchone() == (1, 1)
