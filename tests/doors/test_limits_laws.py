"""The storage for the library limits: laws that no order of hits, and no number of them, breaks."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerHour
from limits.strategies import STRATEGIES

from pgsync.doors.limits import PostgresStorage
from tests.doors.conftest import STORAGE_TABLES, Clock
from tests.eventually import eventually

pytestmark = pytest.mark.core

_STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0.5, 3, 9.999999, 10, 13, 20, 30]), st.integers(1, 5)),
    max_size=15,
)
_LIMIT, _LENGTH = 8, 10


def _agree(database: Any, check: Callable[[list[tuple[float, int]]], None]) -> None:
    @settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
    @given(_STEPS)
    def agree(steps: list[tuple[float, int]]) -> None:
        database.execute(f"TRUNCATE {', '.join(STORAGE_TABLES)}")
        check(steps)

    agree()


def test_moving_windows_agree_with_a_log_of_what_was_admitted(
    storage: PostgresStorage, database: Any, clock: Clock
) -> None:
    def check(steps: list[tuple[float, int]]) -> None:
        log: list[tuple[Any, int]] = []
        for seconds, cost in steps:
            now = clock.move(seconds)
            inside = [(at, c) for at, c in log if (now - at).total_seconds() <= _LENGTH]
            taken = sum(c for _, c in inside)
            start, seen = storage.get_moving_window("7", _LIMIT, _LENGTH)
            assert seen == taken
            if inside:
                age = (now - inside[0][0]).total_seconds()
                assert time.time() - start == pytest.approx(age, abs=0.5)
            admitted = storage.acquire_entry("7", _LIMIT, _LENGTH, cost)
            assert admitted is (taken + cost <= _LIMIT)
            if admitted:
                log.append((now, cost))

    _agree(database, check)


def test_sliding_windows_agree_with_a_model_of_two_counters(
    storage: PostgresStorage, database: Any, clock: Clock
) -> None:
    def check(steps: list[tuple[float, int]]) -> None:
        began: Any = None
        before = current = 0
        for seconds, cost in steps:
            now = clock.move(seconds)
            into = Fraction(0) if began is None else Fraction((now - began).total_seconds())
            # Windows are moved on by who is admitted: a refused hit changes nothing.
            since, older, newer = began, before, current
            if since is not None and _LENGTH <= into < 2 * _LENGTH:
                since, older, newer = since + timedelta(seconds=_LENGTH), current, 0
                into -= _LENGTH
            elif into >= 2 * _LENGTH:
                since, older, newer, into = None, 0, 0, Fraction(0)
            weighed = math.floor(older * (_LENGTH - into) / _LENGTH) + newer
            admitted = storage.acquire_sliding_window_entry("7", _LIMIT, _LENGTH, cost)
            assert admitted is (weighed + cost <= _LIMIT)
            if admitted:
                began, before, current = since or now, older, newer + cost

    _agree(database, check)


_HAMMER = """
import sys, threading
from limits import RateLimitItemPerHour
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES
import pgsync.doors.limits
from pgsync import Coordinator
with Coordinator(sys.argv[1]) as sync:
    limiter = STRATEGIES[sys.argv[2]](storage_from_string('pgsync://', coordinator=sync))
    limit, allowed = RateLimitItemPerHour(100), []
    def hit():
        for _ in range(40):
            allowed.append(limiter.hit(limit, '7'))
    threads = [threading.Thread(target=hit) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(sum(allowed))
"""


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_processes_that_hammer_a_key_are_admitted_just_as_often_as_it_allows(
    dsn: str, name: str
) -> None:
    hammers = [
        subprocess.Popen([sys.executable, "-c", _HAMMER, dsn, name], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert sum(int(hammer.communicate(timeout=240)[0]) for hammer in hammers) == 100


@pytest.mark.parametrize("name", ["moving-window", "sliding-window-counter"])
def test_the_last_permit_goes_to_one_of_two(
    storage: PostgresStorage, dsn: str, database: Any, name: str
) -> None:
    limiter, hour = STRATEGIES[name](storage), RateLimitItemPerHour(2)
    assert limiter.hit(hour, "7")
    waiting = (
        "SELECT count(*) = 2 FROM pg_locks"
        " WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
    )
    with ThreadPoolExecutor(2) as threads:
        with psycopg.connect(dsn) as holder:
            # Both look, see one permit left, and meet at the row.
            holder.execute("SELECT FROM pgsync.limits_storage_moving FOR UPDATE")
            holder.execute("SELECT FROM pgsync.limits_storage_sliding FOR UPDATE")
            answers = [threads.submit(limiter.hit, hour, "7") for _ in range(2)]
            eventually(lambda: database.execute(waiting).fetchone()[0])
        assert sorted(answer.result(30) for answer in answers) == [False, True]


def test_a_hit_waits_for_no_other_key(storage: PostgresStorage, dsn: str) -> None:
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT pgsync.limits_storage_acquire_entry('LIMITS:slow', 9, '1 minute')")
        answers: list[bool] = []
        quick = threading.Thread(
            target=lambda: answers.append(storage.acquire_entry("quick", 9, 60))
        )
        quick.start()
        quick.join(10)
        assert answers == [True]
