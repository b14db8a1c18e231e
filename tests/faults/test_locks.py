"""Locks under kills, freezes, ended sessions and shutdowns; and the checker that would see it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from tests.faults.crew import Freeze
from tests.faults.ledger import Entry, Event, check
from tests.faults.lock_run import Settings, run
from tests.faults.lock_storm import LOCK_FAULTS
from tests.faults.storm import plan

pytestmark = pytest.mark.faults

_KINDS = 9
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_no_update_is_lost_and_no_two_holders_are_inside_whatever_happens() -> None:
    report = run(Settings(seconds=10, seed="ci"))
    assert report.violations == [], f"see {report.folder}"
    assert {"kill a worker", "kill -9 a backend", "immediate shutdown"} <= set(report.faults)
    assert {"freeze the holder", "end a lock session"} <= set(report.faults)
    assert report.figures["handoffs between processes"] > 20
    # The opening alone makes one: a holder that was frozen past its ttl wrote, and was refused.
    assert report.figures["refused by the guard (LockLost)"] > 0


def test_without_the_guard_a_frozen_holder_overwrites_what_others_wrote() -> None:
    report = run(Settings(seconds=1, seed="ci", guarded=False))
    assert report.folder is not None
    shutil.rmtree(report.folder)
    assert any("lost updates" in violation for violation in report.violations)
    assert any("several sections wrote one value" in what for what in report.violations)


def test_a_seed_replays_the_order_of_faults() -> None:
    first, again, other = (
        list(islice(plan(seed, 1.0, LOCK_FAULTS), 50)) for seed in ("a", "a", "b")
    )
    assert first == again
    assert first != other
    assert len({fault.kind for fault in first[:_KINDS]}) == _KINDS


def _ledger() -> list[Entry]:
    """Three sections that are as they should be."""
    return [
        Entry(
            section=f"{n}.1.0.1",
            value=n,
            token=n * 10,
            worker=f"{n}.1.0",
            entered_at=_NOON + timedelta(seconds=n),
            left_at=_NOON + timedelta(seconds=n, milliseconds=500),
        )
        for n in (1, 2, 3)
    ]


def _granted(worker: str, token: int, sent: float, got: float) -> Event:
    times = {"wait": 3.0, "sent": sent, "got": got}
    return {"event": "granted", "worker": worker, "token": token, **times}


def _ended(outcome: str, section: str, value: int) -> Event:
    return {"event": outcome, "worker": section[:5], "section": section, "value": value}


def _verdict(
    ledger: list[Entry], *history: Event, counter: int = 3, freezes: tuple[Freeze, ...] = ()
) -> list[str]:
    return check(counter, ledger, list(history), freezes, margin=5.0)


def test_the_checker_accepts_what_is_right() -> None:
    assert _verdict(_ledger()) == []
    right = [
        _granted("1.1.0", 10, 0.0, 1.0),
        _ended("acknowledged", "1.1.0.1", 1),
        _granted("2.1.0", 20, 0.5, 2.0),
        _ended("refused", "2.1.0.7", 2),
        _ended("unknown", "3.1.0.1", 3),
    ]
    assert _verdict(_ledger(), *right) == []


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"value": 2}, "several sections wrote one value"),
        ({"value": 4}, "values that no section wrote"),
        ({"token": 5}, "a lower token committed after a higher one"),
        ({"token": 20}, "a token of several workers"),
        ({"entered_at": _NOON}, "a section began before the one before it had ended"),
    ],
)
def test_the_checker_sees_a_ledger_that_is_wrong(change: dict[str, Any], verdict: str) -> None:
    first, second, third = _ledger()
    assert any(verdict in what for what in _verdict([first, second, replace(third, **change)]))


def test_the_checker_sees_a_counter_that_lags_behind_its_ledger() -> None:
    assert "lost updates" in _verdict(_ledger(), counter=2)[0]


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ([_ended("acknowledged", "9.1.0.1", 4)], "acknowledged, but not in the ledger"),
        ([_ended("acknowledged", "1.1.0.1", 4)], "acknowledged, but not in the ledger"),
        ([_ended("refused", "1.1.0.1", 1)], "told that it did not commit"),
        ([_ended("failed", "1.1.0.1", 1)], "told that it did not commit"),
        ([_granted("1.1.0", 10, 0, 1), _granted("2.1.0", 10, 2, 3)], "a token granted twice"),
        ([_granted("1.1.0", 20, 0, 1), _granted("2.1.0", 10, 2, 3)], "before a lower one"),
        ([_granted("1.1.0", 10, 0, 8.5)], "waited 5 s longer"),
        ([{**_granted("1.1.0", 10, 0, 1), "event": "held"}], "before its wait"),
        ([{"event": "error", "worker": "1.1.0", "error": "ZeroDivisionError"}], "ZeroDivision"),
    ],
)
def test_the_checker_sees_a_history_that_is_wrong(history: list[Event], verdict: str) -> None:
    assert any(verdict in what for what in _verdict(_ledger(), *history))


def test_a_wait_during_which_its_worker_was_frozen_is_left_out() -> None:
    wait = _granted("1.1.0", 10, 0, 20)
    assert _verdict(_ledger(), wait, freezes=(Freeze("1.1", 1.0, 15.0),)) == []
    assert _verdict(_ledger(), wait, freezes=(Freeze("2.1", 1.0, 15.0),)) != []
