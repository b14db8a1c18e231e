"""Queues and operations on the command line: listed, and shown one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from pgsync import Coordinator, InvalidArgument, OperationBlocked
from pgsync.cli.main import cli
from pgsync.operations import OperationRun


@pytest.fixture
def pgsync(dsn: str) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, env={"PGSYNC_DSN": dsn})

    return run


def test_a_queue_is_listed_for_its_jobs_its_pause_or_its_worker(
    pgsync: Any, database: psycopg.Connection[Any]
) -> None:
    database.execute(
        "SELECT pgsync.enqueue('t', queue => 'a'), pgsync.pause_queue('b'),"
        " pgsync.register_worker('w', 'here', 7, '1', ARRAY['c', '*'], 1)"
    )
    rows = json.loads(pgsync("queues", "list", "--json").stdout)
    assert [(row["name"], row["available"], row["paused"], row["workers"]) for row in rows] == [
        ("a", 1, False, 1),
        ("b", 0, True, 1),
        ("c", 0, False, 1),
    ]


def test_workers_are_listed_with_what_they_do(
    pgsync: Any, database: psycopg.Connection[Any]
) -> None:
    database.execute("SELECT pgsync.register_worker('s', 'h', 8, '1', '{}', 0, '{scheduler}')")
    (row,) = json.loads(pgsync("workers", "--json").stdout)
    assert (row["name"], row["kinds"]) == ("s", ["scheduler"])
    assert "scheduler" in pgsync("workers").stdout


def test_a_queue_is_shown_with_what_was_set_for_it(
    pgsync: Any, database: psycopg.Connection[Any]
) -> None:
    assert pgsync("queues", "limit", "mail", "--max-starts", "1/60").exit_code == 0
    assert pgsync("queues", "retain", "mail", "--days", "2").exit_code == 0
    assert pgsync("queues", "weigh", "mail", "acme", "3").exit_code == 0
    assert pgsync("queues", "pause", "mail", "--by", "ann").exit_code == 0
    (queue,) = json.loads(pgsync("queues", "show", "mail", "--json").stdout)
    assert (queue["max_starts"], queue["starts_per"], queue["retention"]) == (1, 60, 2 * 86_400)
    assert (queue["weights"], queue["paused_by"]) == ({"acme": 3}, "ann")
    assert "max starts" in pgsync("queues", "show", "mail").stdout
    assert pgsync("queues", "resume", "mail", "--by", "bob").stdout == "resumed\n"
    audit = database.execute("SELECT action, actor FROM pgsync.audit ORDER BY id").fetchall()
    assert [action for action, _ in audit] == ["queue.limited", "queue.paused", "queue.resumed"]
    assert [actor for _, actor in audit[1:]] == ["ann", "bob"]


def test_runs_are_listed_and_shown(pgsync: Any, sync: Coordinator) -> None:
    @sync.operation("count_up", lock="count_up", ttl=60)
    def count_up(run: OperationRun) -> None:
        run.note("counted", to=3)
        with pytest.raises(OperationBlocked):
            count_up()

    count_up()
    refused, ran = json.loads(pgsync("operations", "list", "--json").stdout)
    assert (refused["state"], ran["state"]) == ("blocked", "completed")
    assert json.loads(pgsync("operations", "--json", "--most", "1").stdout) == [refused]
    assert json.loads(pgsync("operations", "list", "--state", "completed", "--json").stdout) == [
        ran
    ]
    assert (
        json.loads(pgsync("operations", "list", "--before", str(ran["id"]), "--json").stdout) == []
    )
    assert "count_up" in pgsync("operations").stdout
    (run,) = json.loads(pgsync("operations", "show", str(ran["id"]), "--json").stdout)
    assert {"counted", "completed"} <= {event["event"] for event in run["events"]}
    assert "counted" in pgsync("operations", "show", str(ran["id"])).stdout
    assert isinstance(pgsync("operations", "show", "77").exception, InvalidArgument)
