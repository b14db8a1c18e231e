"""Everything at once: all kinds of users on a pair of servers, under faults of many kinds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.everything_run import EverythingSettings, run
from tests.faults.holder_ledger import Holding, check_holdings
from tests.faults.job_ledger import crowds, out_of_order
from tests.faults.limit_worker import check_limits
from tests.faults.witness import lags_while_up

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


def at(second: float) -> datetime:
    return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=second)


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
    def effect(task: str, entered: int, left: int) -> tuple[Any, ...]:
        return (1, task, "k", at(entered), at(left))

    apart = [effect("ordered", 0, 2), effect("ordered", 2, 3)]
    two = [effect("limited", 0, 2), effect("limited", 1, 3)]
    assert list(crowds(apart + two)) == []
    (violation,) = crowds([*apart, *two, effect("ordered", 1, 2)])
    assert "2 jobs of ordered with the key k ran at once, and not 1" in violation
    assert len(list(crowds([*two, effect("limited", 1, 2)]))) == 1


def test_the_checker_sees_ordered_jobs_of_one_enqueuer_out_of_order() -> None:
    def run(job: int, second: int) -> tuple[Any, ...]:
        return (job, "ordered", "k", at(second), at(second + 1))

    def added(job: int, by: str) -> dict[str, Any]:
        return {"event": "acknowledged", "job": job, "by": by}

    rows = [run(1, 20), run(2, 10), run(3, 30)]
    assert list(out_of_order(rows, [added(2, "a"), added(3, "a"), added(1, "b")])) == []
    (violation,) = out_of_order(rows, [added(1, "a"), added(2, "a"), added(3, "a")])
    assert "1 ordered jobs ran before one that was added before: [(1, 2)]" in violation


def test_the_checker_sees_holders_and_leaders_that_should_not_be() -> None:
    def stay(what: str, token: int, entered: int, left: int, worker: str = "") -> Holding:
        section = f"{what}.{token}.{entered}"
        return Holding(section, what, token, worker or str(token), at(entered), at(left))

    three = [stay("slots", token, 0, 9) for token in (1, 2, 3)]
    terms = [stay("leader", 4, 0, 2), stay("leader", 4, 2, 3), stay("leader", 7, 3, 4)]
    assert check_holdings([*three, *terms], []) == []
    (violation,) = check_holdings([*three, stay("slots", 9, 8, 10)], [])
    assert "4 guarded holders of slots were inside at once, and not 3" in violation
    (violation,) = check_holdings([*terms, stay("leader", 8, 3, 5)], [])
    assert "2 guarded holders of leader" in violation
    (violation,) = check_holdings([*terms, stay("leader", 5, 4, 5)], [])
    assert "1 leaders wrote with a lower token" in violation
    (violation,) = check_holdings([*three, stay("slots", 3, 9, 10, "another")], [])
    assert "1 tokens of several holders" in violation
    told = [{"event": "acknowledged", "section": "?"}, {"event": "refused", "section": "slots.1.0"}]
    lost, ghost = check_holdings(three, told)
    assert "acknowledged and are not there" in lost
    assert "told that they are not" in ghost


def test_a_lag_leaves_out_what_the_server_was_away() -> None:
    fires = [(at(0), at(1)), (at(5), at(31)), (at(15), at(31)), (at(40), at(41))]
    assert lags_while_up(fires, [(at(10), at(30))]) == [1, 6, 1, 1]
    assert lags_while_up(fires, []) == [1, 26, 16, 1]
