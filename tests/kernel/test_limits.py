"""Rate limits: what is admitted, and what a refused caller is told."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsync import Coordinator, InvalidArgument, Limit, RateLimited
from tests.eventually import eventually
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def test_the_eleventh_of_ten_is_refused_until_the_window_ends(
    sync: Coordinator, clock: Clock
) -> None:
    limiter = sync.limiter("graph", Limit(10, per=60), remember=0)
    assert [limiter.hit("7").remaining for _ in range(10)] == list(range(9, -1, -1))
    clock.move(20)
    refused = limiter.hit("7")
    assert not refused
    assert (refused.remaining, refused.retry_after) == (0, 40)
    assert refused.resets_at == clock.now + timedelta(seconds=40)
    assert limiter.hit("8")
    clock.move(39.999)
    assert not limiter.hit("7")
    clock.move(0.001)
    assert limiter.hit("7").remaining == 9


def test_the_first_hit_opens_the_window(sync: Coordinator, clock: Clock) -> None:
    limiter = sync.limiter("graph", Limit(2, per=60), remember=0)
    clock.move(59)
    first = limiter.hit("7")
    assert first.resets_at == clock.now + timedelta(seconds=60)
    clock.move(59)
    assert limiter.hit("7").resets_at == first.resets_at
    assert not limiter.hit("7")


def test_of_several_limits_a_refusal_takes_nothing(sync: Coordinator, clock: Clock) -> None:
    minute, day = Limit(3, per=60), Limit(4, per=86400)
    both = sync.limiter("graph", minute, day, remember=0)
    assert [both.hit("7").remaining for _ in range(3)] == [2, 1, 0]
    assert both.hit("7").retry_after == 60
    clock.move(60)
    assert both.hit("7").remaining == 0
    refused = both.hit("7")
    assert not refused
    assert refused.retry_after == 86400 - 60
    # The minute has room for two still: the day's refusal took none of it.
    assert sync.limiter("graph", minute, remember=0).peek("7").remaining == 2


def test_a_cost_is_taken_whole_or_not_at_all(sync: Coordinator, clock: Clock) -> None:
    limiter = sync.limiter("graph", Limit(10, per=60), remember=0)
    assert limiter.hit("7", cost=7).remaining == 3
    refused = limiter.hit("7", cost=4)
    assert (refused.allowed, refused.remaining, refused.retry_after) == (False, 3, 60)
    assert limiter.hit("7", cost=3).remaining == 0


def test_peek_takes_nothing(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=60))
    assert limiter.peek("7").remaining == 1
    assert limiter.peek("7").allowed
    assert limiter.hit("7").allowed
    assert not limiter.peek("7").allowed


def test_a_penalty_closes_the_key_and_is_never_shortened(
    sync: Coordinator, database: Any, clock: Clock
) -> None:
    limiter = sync.limiter("graph", Limit(10, per=60), remember=0)
    limiter.penalize("7", 300, "Retry-After")
    limiter.penalize("7", 10, "later, but shorter")
    refused = sync.limiter("graph", Limit(10, per=60), Limit(99, per=3600), remember=0).hit("7")
    assert (refused.allowed, refused.remaining, refused.retry_after) == (False, 0, 300)
    row = database.execute("SELECT key, state, remaining FROM pgsync.rate_limits").fetchone()
    assert row == ("graph:7", "penalised", 0)
    clock.move(300)
    assert limiter.hit("7")


def test_clear_forgets_hits_and_penalty(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=60))
    limiter.hit("7")
    limiter.penalize("7", 60)
    limiter.clear("7")
    assert limiter.hit("7").allowed


def test_acquire_waits_for_the_window(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=0.3))
    first = limiter.hit("7")
    decision = limiter.acquire("7", timeout=30)
    assert decision.allowed
    assert decision.resets_at >= first.resets_at + timedelta(seconds=0.3)


def test_acquire_gives_up_at_once_where_the_wait_is_too_long(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=3600))
    limiter.hit("7")
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("7", timeout=60)
    assert 3500 < caught.value.retry_after <= 3600
    assert caught.value.key == "graph:7"
    assert caught.value.resets_at is not None
    assert caught.value.resets_at.tzinfo is UTC


def test_times_are_in_utc_whatever_the_session_says(dsn: str) -> None:
    with Coordinator(f"{dsn} options='-c TimeZone=Asia/Kolkata'") as sync:
        assert sync.limiter("graph", Limit(1, per=60)).hit("7").resets_at.tzinfo is UTC
        with sync.lock("report", ttl=60) as lock:
            assert lock.expires_at.tzinfo is UTC
        assert sync.pause_queue("default").tzinfo is UTC


def test_a_cost_that_cannot_work_is_refused(sync: Coordinator) -> None:
    limiter: Any = sync.limiter("graph", Limit(10, per=60))
    for cost in (0, -1, 11, 2**40, 1.5, "1", None, True):
        for ask in (limiter.hit, limiter.peek, limiter.acquire):
            with pytest.raises(InvalidArgument):
                ask("7", cost=cost)


@pytest.mark.parametrize(
    "bad", [(0, 60), (-1, 60), (2**31, 60), (True, 60), (1.5, 60), (1, 0), (1, -1), (1, "60")]
)
def test_a_limit_that_cannot_work_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        Limit(*bad)


def test_names_and_windows_are_checked_at_the_door(sync: Coordinator, database: Any) -> None:
    with pytest.raises(InvalidArgument, match="at least one limit"):
        sync.limiter("graph")
    with pytest.raises(InvalidArgument, match="same window"):
        sync.limiter("graph", Limit(1, per=60), Limit(2, per=60))
    for key in ("nul\0", "lone \ud800", "x" * 2000):
        with pytest.raises(InvalidArgument):
            sync.limiter("graph", Limit(1, per=60)).hit(key)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="same window"):
        database.execute("SELECT pgsync.rate_limit_hit('k', '{1,2}'::integer[], '{60s,60s}')")


def test_the_view_shows_open_full_and_ended_windows(
    sync: Coordinator, database: Any, clock: Clock
) -> None:
    sync.limiter("a", Limit(2, per=60), remember=0).hit("open")
    sync.limiter("a", Limit(1, per=60), remember=0).hit("full")
    sync.limiter("a", Limit(1, per=1), remember=0).hit("over")
    clock.move(1)
    rows = database.execute(
        "SELECT key, state, hits, max, remaining FROM pgsync.rate_limits ORDER BY key"
    ).fetchall()
    assert rows == [
        ("a:full", "full", 1, 1, 0),
        ("a:open", "open", 1, 2, 1),
        ("a:over", "open", 0, 1, 1),
    ]


def test_ended_windows_are_removed_and_others_kept(
    sync: Coordinator, database: Any, clock: Clock
) -> None:
    sync.limiter("a", Limit(2, per=60), remember=0).hit("ended")
    sync.limiter("a", Limit(2, per=3600), remember=0).hit("current")
    clock.move(121)
    assert database.execute("SELECT pgsync.prune_rate_limits()").fetchone() == (1,)
    assert database.execute("SELECT key FROM pgsync.rate_limits").fetchall() == [("a:current",)]


def test_hits_agree_with_a_model_of_windows(sync: Coordinator, database: Any, clock: Clock) -> None:
    limits = (Limit(5, per=10), Limit(8, per=25))
    step = st.tuples(st.sampled_from([0, 0, 0.5, 3, 9.999999, 10, 30]), st.integers(1, 5))

    @settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.lists(step, max_size=20))
    def agree(steps: list[tuple[float, int]]) -> None:
        database.execute("TRUNCATE pgsync.rate_limit_counter")
        limiter = sync.limiter("model", *limits, remember=0)
        windows: dict[timedelta, tuple[datetime, int]] = {}
        for seconds, cost in steps:
            now = clock.move(seconds)
            windows = {per: w for per, w in windows.items() if w[0] > now}
            room = {x.per: x.max - windows.get(x.per, (now, 0))[1] for x in limits}
            decision = limiter.hit("7", cost=cost)
            assert decision.allowed is all(left >= cost for left in room.values())
            if decision.allowed:
                for per in room:
                    end, hits = windows.get(per, (now + per, 0))
                    windows[per] = (end, hits + cost)
                assert decision.remaining == min(room.values()) - cost
            else:
                opens = max(windows[per][0] for per, left in room.items() if left < cost)
                assert decision.resets_at == opens
                assert decision.retry_after == (opens - now).total_seconds()

    agree()


_HAMMER = """
import sys, threading
from pgsync import Coordinator, Limit
windows = [Limit(int(n), per=3600 + i) for i, n in enumerate(sys.argv[2].split(','))]
with Coordinator(sys.argv[1]) as sync:
    limiter = sync.limiter('hammer', *windows)
    allowed = []
    def hit():
        for _ in range(60):
            allowed.append(limiter.hit('7').allowed)
    threads = [threading.Thread(target=hit) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(sum(allowed))
"""


@pytest.mark.parametrize("limits", ["100", "400,100"])
def test_processes_that_hammer_a_key_never_exceed_the_limit(dsn: str, limits: str) -> None:
    hammers = [
        subprocess.Popen([sys.executable, "-c", _HAMMER, dsn, limits], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert sum(int(hammer.communicate(timeout=240)[0]) for hammer in hammers) == 100


@pytest.mark.parametrize("windows", [[60], [60, 3600]], ids=["one window", "two windows"])
def test_a_hit_that_waited_is_judged_by_what_it_waited_for(
    sync: Coordinator, dsn: str, database: Any, windows: list[int]
) -> None:
    limiter = sync.limiter("graph", *(Limit(2, per=per) for per in windows))
    limiter.hit("7")
    answers: list[bool] = []
    with psycopg.connect(dsn) as first:
        first.execute("SELECT FROM pgsync.rate_limit_counter WHERE key = 'graph:7' FOR UPDATE")
        # One permit seems to be left: the second hit looks, and then waits for the first.
        thread = threading.Thread(target=lambda: answers.append(limiter.hit("7").allowed))
        thread.start()
        blocked = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        eventually(lambda: database.execute(blocked).fetchone())
        first.execute("UPDATE pgsync.rate_limit_counter SET hits = 2 WHERE key = 'graph:7'")
        first.commit()
    thread.join(60)
    assert answers == [False]


def test_a_hit_waits_for_no_other_key(sync: Coordinator, dsn: str) -> None:
    limiter = sync.limiter("graph", Limit(10, per=60))
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT pgsync.rate_limit_hit('graph:slow', 10, '60s')")
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(limiter.hit("quick").allowed))
        thread.start()
        thread.join(60)
        assert answers == [True]
