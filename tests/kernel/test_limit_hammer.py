"""Processes that hammer one key: what was allowed, from their own logs, never exceeds the limit.

``PGSYNC_HAMMER="8 10"`` makes it eight processes for ten seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.kernel.limit_models import (
    FixedWindow,
    Model,
    SlidingWindow,
    TokenBucket,
    bucket_holds,
    most_in_any_interval,
)

pytestmark = pytest.mark.core

_PROCESSES, _SECONDS = (int(word) for word in os.environ.get("PGSYNC_HAMMER", "3 1").split())

_MAX, _PER = 200, 300_000
"""So many permits in so many microseconds: a few windows even in a short run."""

_PROGRAM = """
import json, sys, threading, time
from pgsync import Coordinator, Limit, SlidingWindow, TokenBucket
dsn, seconds, limit, options = sys.argv[1:]
log = []
with Coordinator(dsn) as sync:
    limiter = sync.limiter("hammer", eval(limit), **json.loads(options))
    def hammer():
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            before = time.time()
            decision = limiter.hit("7")
            if decision:
                log.append((round(before * 1e6), round(time.time() * 1e6),
                            round(decision.ticket.taken_at.timestamp() * 1e6),
                            round(decision.resets_at.timestamp() * 1e6)))
    limiter.peek("7")
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(json.dumps(log))
"""


def _hammer(dsn: str, limit: str, **options: Any) -> list[tuple[int, int, int, int]]:
    """The allowed hits: begun, ended, taken by the server's clock, and when that resets."""
    command = [sys.executable, "-c", _PROGRAM, dsn, str(_SECONDS), limit, json.dumps(options)]
    hammers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(_PROCESSES)
    ]
    for hammer in hammers:
        assert hammer.stdout is not None
        assert hammer.stdout.readline() == "ready\n"
    for hammer in hammers:
        assert hammer.stdin is not None
        hammer.stdin.write("go\n")
        hammer.stdin.flush()
    logs = [json.loads(hammer.communicate(timeout=120)[0]) for hammer in hammers]
    allowed = sorted(tuple(hit) for log in logs for hit in log)
    assert len(allowed) > _MAX, "it did not come to the limit"
    return allowed


@pytest.mark.parametrize("lease", [0, 20])
def test_a_fixed_window(dsn: str, lease: int) -> None:
    allowed = _hammer(dsn, f"Limit({_MAX}, per={_PER / 1e6})", lease=lease)
    windows = Counter(ends for *_, ends in allowed)
    assert max(windows.values()) <= _MAX
    # A permit is used in the window in which it was taken, leased or not.
    assert all(ends - _PER <= taken < ends and began < ends for began, _, taken, ends in allowed)
    assert len(windows) > 1


def test_a_sliding_window(dsn: str) -> None:
    allowed = _hammer(dsn, f"SlidingWindow({_MAX}, per={_PER / 1e6})")
    _each_was_within(SlidingWindow(_MAX, _PER), sorted(taken for _, _, taken, _ in allowed))


def test_a_leased_sliding_window(dsn: str) -> None:
    allowed = _hammer(dsn, f"SlidingWindow({_MAX}, per={_PER / 1e6})", lease=20)
    # Leases are taken in one go: as many hits as were handed out of them have the same moment.
    _each_was_within(SlidingWindow(_MAX, _PER), sorted(taken for _, _, taken, _ in allowed))
    used = sorted((ended, 1) for _, ended, _, _ in allowed)
    assert most_in_any_interval(used, _PER) <= 2 * _MAX


def test_a_token_bucket(dsn: str) -> None:
    burst = 50
    allowed = _hammer(dsn, f"TokenBucket({_MAX}, per={_PER / 1e6}, burst={burst})")
    taken = [(taken, 1) for taken in sorted(taken for _, _, taken, _ in allowed)]
    assert bucket_holds(taken, _MAX, _PER, burst)


def test_the_checks_see_one_hit_too_many() -> None:
    """What the tests above rely on."""
    bucket = TokenBucket(10, 1000, 5)
    assert not bucket_holds([(0, 1)] * 6, 10, 1000, 5)
    assert bucket_holds([(0, 1)] * 5 + [(100, 1)], bucket.max, bucket.per, bucket.burst)
    assert most_in_any_interval([(0, 3), (9, 1), (10, 4)], 10) == 5
    for model in (FixedWindow(2, 10), SlidingWindow(2, 10)):
        with pytest.raises(AssertionError):
            _each_was_within(model, [0, 1, 9])


def _each_was_within(model: Model, moments: list[int]) -> None:
    """Each hit, in turn, was one that the model allows."""
    for moment in moments:
        assert model.room(moment) >= 1
        model.take(moment, 1)
