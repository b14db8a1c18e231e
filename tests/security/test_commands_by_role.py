"""The command line as a reader, which looks at all and changes nothing, and as a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgsync.cli.main import cli
from pgsync.errors import ServerUnsupported
from tests.cli.test_json import ARGUMENTS, SHOWING, busy

__all__ = ["busy"]

Login = Callable[[str], str]

_STEERING = (
    "jobs cancel {job} --yes",
    "jobs discard {job} --yes",
    "jobs retry {job} --yes",
    "limits set graph:7 9/60",
    "limits unset graph:8 --per 60",
    "locks ask report",
    "locks release report --yes",
    "operations cancel {run}",
    "queues limit mail --max-running 3",
    "queues pause mail",
    "queues resume mail",
    "queues retain mail --days 1",
    "queues weigh mail acme 2",
    "schedules pause nightly",
    "schedules remove nightly --yes",
    "schedules run nightly",
)
# What an app does by itself a worker may do by hand.
_OF_WORKERS = (
    "locks ask",
    "operations cancel",
    "queues limit",
    "queues weigh",
    "schedules remove",
)

_STATE = """
SELECT (SELECT array_agg(t::text ORDER BY t::text) FROM pgsync.queue AS t),
       (SELECT array_agg(t::text ORDER BY t::text) FROM pgsync.schedule AS t),
       (SELECT array_agg(t::text ORDER BY t::text) FROM pgsync.all_jobs AS t),
       (SELECT array_agg(t::text ORDER BY t::text) FROM pgsync.rate_limit_override AS t),
       (SELECT count(*) FROM pgsync.lock_holder), (SELECT count(*) FROM pgsync.audit)
"""


def run(dsn: str, command: str, told: dict[str, Any], *more: str) -> Result:
    arguments = [*command.format(**told).split(), *more]
    return CliRunner().invoke(cli, arguments, env={"PGSYNC_DSN": dsn})


@pytest.mark.usefixtures("guarded")
def test_a_reader_sees_what_the_owner_sees(login: Login, dsn: str, busy: dict[str, Any]) -> None:
    reader = login("pgsync_reader")
    for path in SHOWING:
        command = " ".join([path, *ARGUMENTS.get(path, [])])
        seen, its_own = (run(each, command, busy, "--json") for each in (reader, dsn))
        assert seen.exit_code == its_own.exit_code, (path, seen.output)
        if path != "doctor":  # It has found more, or less, by what a login is.
            assert len(json.loads(seen.stdout)) == len(json.loads(its_own.stdout)) > 0, path


@pytest.mark.parametrize("role", ["pgsync_reader", "pgsync_worker"])
def test_who_may_not_steer_is_told_so_and_nothing_has_changed(
    login: Login, guarded: Any, busy: dict[str, Any], role: str
) -> None:
    mine = login(role)
    before = guarded.execute(_STATE).fetchone()
    for command in _STEERING:
        if role == "pgsync_worker" and command.startswith(_OF_WORKERS):
            continue
        refused = run(mine, command, busy)
        assert isinstance(refused.exception, ServerUnsupported), (command, refused.output)
        assert "permission denied for" in str(refused.exception), command
    assert guarded.execute(_STATE).fetchone() == before
