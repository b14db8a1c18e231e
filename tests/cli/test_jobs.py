"""Jobs on the command line: found by filters, page by page, and acted on one by one or by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from pgsync import InvalidArgument
from pgsync.cli.main import cli


@pytest.fixture
def jobs(dsn: str) -> Callable[..., Result]:
    def run(verb: str, *arguments: str) -> Result:
        return CliRunner().invoke(cli, ["jobs", verb, *arguments, "--dsn", dsn])

    return run


def _enqueue(database: psycopg.Connection[Any], number: int, **args: Any) -> None:
    database.execute(
        "SELECT pgsync.enqueue('send', %s::jsonb, queue => 'mail') FROM generate_series(1, %s)",
        [json.dumps(args), number],
    )


def _states(database: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(
        database.execute("SELECT state, count(*) FROM pgsync.all_jobs GROUP BY state").fetchall()
    )


def test_pages_follow_each_other(jobs: Any, database: psycopg.Connection[Any]) -> None:
    _enqueue(database, 5)
    first = jobs("list", "--most", "2")
    assert first.stderr == "older ones: --before 4\n"
    rows = json.loads(jobs("list", "--most", "2", "--before", "4", "--json").stdout)
    assert [row["id"] for row in rows] == [3, 2]
    assert jobs("list", "--before", "2").stderr == ""


def test_filters_narrow_down(jobs: Any, database: psycopg.Connection[Any]) -> None:
    _enqueue(database, 2, customer={"id": 7})
    _enqueue(database, 3, customer={"id": 8})
    database.execute("SELECT pgsync.cancel_job(1)")

    def found(*arguments: str) -> list[int]:
        return [row["id"] for row in json.loads(jobs("list", "--json", *arguments).stdout)]

    assert found("--arg", "customer.id=7") == [2, 1]
    assert found("--arg", "customer.id=7", "--state", "cancelled") == [1]
    assert found("--state", "cancelled", "--state", "available", "--since", "1h") == [5, 4, 3, 2, 1]
    assert found("--queue", "other") == found("--text", "nobody") == found("--task", "x") == []
    assert found("--since", "2100-01-01T08:00") == []
    assert jobs("count", "--queue", "mail").stdout == "5\n"
    assert jobs("count", "--queue", "mail", "--most", "4").stdout == "4+\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ["list", "--since", "yesterday"],
        ["list", "--arg", "customer"],
        ["list", "--state", "done"],
        ["retry"],
        ["retry", "1", "--queue", "mail"],
        ["cancel", "--queue", "mail"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    jobs: Any, wrong: list[str], database: psycopg.Connection[Any]
) -> None:
    _enqueue(database, 1)
    assert jobs(*wrong).exit_code == 2
    assert _states(database) == {"available": 1}


def test_states_that_the_action_cannot_change_are_refused(jobs: Any) -> None:
    assert isinstance(jobs("retry", "--state", "running").exception, InvalidArgument)
    assert isinstance(jobs("discard", "--state", "completed").exception, InvalidArgument)


def test_many_are_acted_on_by_a_filter_with_the_number_told_first(
    jobs: Any, database: psycopg.Connection[Any]
) -> None:
    _enqueue(database, 1200)
    unsure = jobs("cancel", "--queue", "mail")
    assert "1,000 jobs to cancel, ids 201 to 1200; there may be older" in unsure.stderr
    assert "add --yes" in unsure.stderr
    done = jobs("cancel", "--queue", "mail", "--yes", "--by", "ann", "--most", "1100")
    assert (done.stdout, done.exit_code) == ("1,100 cancelled, or asked to stop\n", 0)
    assert _states(database) == {"available": 100, "cancelled": 1100}
    assert jobs("retry", "--task", "send", "--yes").stdout == "1,000 retried\n"
    assert jobs("discard", "--queue", "mail", "--yes", "--most", "9").stdout == "9 discarded\n"
    assert jobs("retry", "--queue", "other", "--yes").stdout == "no such jobs\n"
    audit = database.execute(
        "SELECT actor, count(*), sum(jsonb_array_length(detail -> 'jobs')),"
        " min(detail #>> '{filter,queue}')"
        " FROM pgsync.audit WHERE action = 'job.cancelled' GROUP BY actor"
    )
    assert audit.fetchall() == [("ann", 3, 1100, "mail")]


def test_ended_jobs_are_forgotten_and_no_others(
    jobs: Any, database: psycopg.Connection[Any]
) -> None:
    _enqueue(database, 5)
    assert jobs("cancel", "1", "2").exit_code == 0
    assert jobs("discard", "3").exit_code == 0
    assert jobs("forget", "1", "4").stdout == ("1 forgotten\n4 has not ended, or is not there\n")
    assert _states(database) == {"available": 2, "cancelled": 1, "discarded": 1}
    assert isinstance(jobs("forget", "--state", "running").exception, InvalidArgument)
    forgotten = jobs("forget", "--queue", "mail", "--yes", "--by", "ann")
    assert forgotten.stdout == "2 forgotten\n"
    assert _states(database) == {"available": 2}
    assert database.execute("SELECT count(*) FROM pgsync.job_untold_discard").fetchone() == (0,)
    audit = (
        "SELECT detail -> 'jobs' FROM pgsync.audit WHERE action = 'job.forgotten' AND actor = 'ann'"
    )
    assert database.execute(audit).fetchall() == [([2, 3],)]
    assert jobs("forget", "77").exit_code == 3


def test_named_jobs_are_told_one_by_one(jobs: Any, database: psycopg.Connection[Any]) -> None:
    _enqueue(database, 2)
    assert jobs("discard", "1", "77").stdout == "1 discarded\n77 runs, or has ended\n"
    assert jobs("retry", "1").stdout == "1 available\n"
    ended = jobs("retry", "77")
    assert (ended.stdout, ended.exit_code) == ("77 nothing to retry\n", 3)
    assert json.loads(jobs("show", "1", "--json").stdout)[0]["state"] == "available"
