"""Schedules from the command line: made, seen, steered and removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgsync import Coordinator, InvalidArgument
from pgsync.cli.main import cli


@pytest.fixture
def pgsync(dsn: str) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["schedules", *arguments, "--dsn", dsn])

    return run


def test_a_schedule_is_made_seen_steered_and_removed(pgsync: Any, sync: Coordinator) -> None:
    def list_json() -> Any:
        return json.loads(pgsync("list", "--json").output)

    assert "no schedules" in pgsync("list").output
    made = pgsync("add", "nightly", "--task", "report", "--cron", "30 2 * * *", "--jitter", "60")
    assert "added" in made.output
    assert "changed" in pgsync("add", "nightly", "--task", "report", "--every", "60").output
    (row,) = list_json()
    assert (row["name"], row["state"], row["expression"]) == ("nightly", "new", "60")
    assert "enqueued job" in pgsync("run", "nightly").output
    pgsync("pause", "nightly", "--by", "ops", "--why", "holidays")
    shown = pgsync("show", "nightly").output
    assert "holidays" in shown
    assert "available" in shown
    detail = json.loads(pgsync("show", "nightly", "--json").output)[0]
    assert (detail["paused_by"], detail["fires"][0]["by_hand"]) == ("ops", True)
    assert pgsync("resume", "nightly").output == "resumed\n"
    assert len(json.loads(pgsync("next", "nightly", "--json", "--count", "7").output)) == 7
    assert pgsync("remove", "nightly").exit_code != 0  # nobody said yes
    assert "removed" in pgsync("remove", "nightly", "--yes").output
    assert list_json() == []


def test_a_crontab_line_is_previewed_without_a_schedule(pgsync: Any) -> None:
    shown = pgsync("next", "--cron", "0 12 * * 1", "--timezone", "Europe/Berlin", "--count", "3")
    assert shown.output.count(":00:00") == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ["add", "s"],
        ["add", "s", "--cron", "* * * * *", "--every", "60"],
        ["add", "s", "--cron", "61 * * * *"],
        ["add", "s", "--every", "0"],
        ["next"],
        ["next", "no such"],
        ["show", "no such"],
        ["run", "no such"],
    ],
)
def test_what_cannot_work_is_refused(pgsync: Any, wrong: list[str]) -> None:
    assert isinstance(pgsync(*wrong).exception, InvalidArgument)
