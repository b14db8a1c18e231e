"""Every command that shows something has ``--json``, and what that prints can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner

from pgsync import Coordinator, Limit
from pgsync.cli.main import cli

# What a command must be told, for something to be shown.
ARGUMENTS = {
    "jobs show": ["{job}"],
    "jobs why": ["{job}"],
    "limits show": ["graph:7"],
    "locks show": ["report"],
    "operations history": ["count_up"],
    "operations show": ["{run}"],
    "operations status": ["count_up", "count_up"],
    "queues show": ["mail"],
    "schedules next": ["nightly"],
    "schedules show": ["nightly"],
}
# Of tables that are not there without the modules, of servers of their own, or a whole scenario.
_ELSEWHERE = ("campaigns", "contacts", "templates", "db", "demo")
# These change something first.
_ACT = ("operations start",)


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, whole)
        else:
            yield whole, command


SHOWING = [
    path
    for path, command in commands(cli)
    if any("--json" in option.opts for option in command.params)
    and path.split()[0] not in _ELSEWHERE
    and path not in _ACT
]


@pytest.fixture
def busy(sync: Coordinator, database: psycopg.Connection[Any]) -> Iterator[dict[str, Any]]:
    """A bit of everything, and the numbers of what must be named."""
    sync.task(name="send", queue="mail")(lambda: None)
    database.execute("SELECT pgsync.add_schedule('nightly', 'send', '0 3 * * *', queue => 'mail')")
    database.execute("SELECT pgsync.run_schedule('nightly', 'ada')")
    database.execute("SELECT pgsync.set_limit('graph:8', 5, '1 minute', actor => 'ada')")
    sync.limiter("graph", Limit(5, per=60)).hit("7")
    sync.operation("count_up", lock="count_up", ttl=60)(lambda op: None)()
    database.execute(
        "SELECT pgsync.register_worker('w', 'here', 7, '1', ARRAY['mail'], 1),"
        " pgsync.count_throughput(), pgsync.snapshot_queues()"
    )
    row = database.execute(
        "SELECT (SELECT max(j.id) FROM pgsync.jobs AS j),"
        " (SELECT max(o.id) FROM pgsync.operations AS o)"
    ).fetchone()
    assert row
    with sync.lock("report", ttl=60):
        yield {"job": row[0], "run": row[1]}


def test_what_json_prints_can_be_read(dsn: str, busy: dict[str, Any]) -> None:
    assert len(SHOWING) > 15
    empty = []
    for path in SHOWING:
        arguments = [each.format(**busy) for each in ARGUMENTS.get(path, [])]
        done = CliRunner().invoke(
            cli, [*path.split(), *arguments, "--json"], env={"PGSYNC_DSN": dsn}
        )
        assert done.exit_code in (0, 4), (path, done.output, done.exception)
        shown = json.loads(done.stdout)
        assert isinstance(shown, list), path
        assert all(isinstance(each, dict) for each in shown), path
        if not shown:
            empty.append(path)
    assert empty == []


def test_the_trail_is_narrowed(dsn: str, busy: dict[str, Any]) -> None:
    def trail(*options: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(cli, ["audit", "--json", *options], env={"PGSYNC_DSN": dsn})
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    everything = trail()
    assert {each["action"] for each in everything} >= {"schedule.run", "set limit"}
    assert {each["subject"] for each in trail("--subject", "nightly")} == {"nightly"}
    assert trail("--actor", "nobody") == []
    newest, following = everything[:2]
    assert trail("--before", str(newest["id"]), "--most", "1") == [following]
