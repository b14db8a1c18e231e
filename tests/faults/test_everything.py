"""Everything at once: all kinds of users on a pair of servers, under faults of many kinds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.everything_run import EverythingSettings, run
from tests.faults.job_ledger import crowds
from tests.faults.limit_worker import check_limits

pytestmark = pytest.mark.faults

# Quick ones; the command has those too that make a new server each time.
_KINDS = (
    "kill a process",
    "freeze a process",
    "start with a wrong clock",
    "end any session",
    "kill -9 a backend",
    "promote over a living primary",
    "reset a connection",
    "stall a connection",
    "half-open a connection",
    "swallow an answer",
    "swallow the answer to a commit",
    "cut all connections",
    "use up the connections",
    "use up the locks",
)


@pytest.mark.timeout(900)
def test_no_promise_is_broken_whatever_happens_to_the_whole() -> None:
    settings = EverythingSettings(
        seconds=5,
        seed="ci",
        kinds=_KINDS,
        calm=1.0,
        jobbers=1,
        daemons=1,
        importers=1,
        schedules=5,
        rows=300,
    )
    report = run(settings)
    assert report.violations == [], f"see {report.folder}"
    assert {"kill a process", "start with a wrong clock"} <= set(report.faults)
    assert {"promote over a living primary", "cut all connections"} <= set(report.faults)


def test_the_checker_sees_a_window_that_let_pass_too_many() -> None:
    passed = {"event": "passed", "limiter": "alone", "key": "a", "window": "12:00"}
    other = {**passed, "window": "12:02"}
    assert check_limits([passed] * 15 + [other] * 15 + [{"event": "denied"}] * 9) == []
    (violation,) = check_limits([passed] * 16 + [other])
    assert "1 windows let pass too many" in violation


def test_the_checker_sees_more_jobs_at_once_than_their_key_lets() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def effect(task: str, entered: int, left: int) -> tuple[Any, ...]:
        moments = (noon + timedelta(seconds=second) for second in (entered, left))
        return (1, f"app.{task}", "k", *moments)

    apart = [effect("ordered", 0, 2), effect("ordered", 2, 3)]
    two = [effect("limited", 0, 2), effect("limited", 1, 3)]
    assert list(crowds(apart + two)) == []
    (violation,) = crowds([*apart, *two, effect("ordered", 1, 2)])
    assert "2 jobs of app.ordered with the key k ran at once, and not 1" in violation
    assert len(list(crowds([*two, effect("limited", 1, 2)]))) == 1
