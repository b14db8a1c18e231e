"""A hit of a window that is open goes a shorter way, which must decide as the long one does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsync import Coordinator, Limit
from pgsync.limits import exchange, outage
from pgsync.limits.declared import LimitSet
from tests.eventually import eventually
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

_MINUTE = timedelta(minutes=1)
_NONE = (None, None)

# What happens to a key between its hits, by other processes too; %(key)s is the key.
_DEEDS = {
    "set": "SELECT pgsync.set_limit(%(key)s, %(n)s, '1 minute')",
    "unset": "SELECT pgsync.unset_limit(%(key)s, '1 minute')",
    "penalise": "SELECT pgsync.rate_limit_penalize(%(key)s, make_interval(secs => 10 * %(n)s), '')",
    "clear": "SELECT pgsync.rate_limit_clear(%(key)s)",
    "wait": "SELECT pgsync.rate_limit_acquire(%(key)s, '{5}', '{1 minute}', 1, '1 hour')",
    "another limit": "SELECT pgsync.rate_limit_hit(%(key)s, 3, '1 minute')",
}
_deed = st.tuples(st.sampled_from([*_DEEDS, "pause"]), st.integers(1, 8))
_hit = st.tuples(st.just("hit"), st.integers(1, 3))

_TAKE = (
    "SELECT t.granted = 1, t.remaining, t.retry_after, t.resets_at, t.binding, t.quota, t.taken_at,"
    " t.marks FROM pgsync.rate_limit_take('long:7', %s::integer[], %s::interval[], %s) AS t"
)


@pytest.mark.parametrize(
    "limits",
    [
        [Limit(5, per=60)],
        [Limit(5, per=60), Limit(5, per=90)],
        [Limit(12, per=600), Limit(5, per=60), Limit(4, per=15)],
    ],
    ids=["one", "two", "three"],
)
def test_it_decides_as_the_long_way_does(
    face: Any, database: psycopg.Connection[Any], clock: Clock, limits: list[Limit]
) -> None:
    limiter = face.limiter("short", *limits, remember=0)

    @settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.one_of(_hit, _hit, _deed), max_size=16))
    def agree(steps: list[tuple[str, int]]) -> None:
        for key in ("short:7", "long:7"):
            database.execute("SELECT pgsync.rate_limit_clear(%s)", [key])
            database.execute("SELECT pgsync.unset_limit(%s, '1 minute')", [key])
        for what, n in steps:
            if what == "pause":
                clock.move(10 * n)
            elif what != "hit":
                for key in ("short:7", "long:7"):
                    database.execute(_DEEDS[what], {"key": key, "n": n})
            else:
                short = limiter.hit("7", cost=n)
                asked = ([limit.max for limit in limits], [limit.per for limit in limits], n)
                assert database.execute(_TAKE, asked).fetchone() == (
                    short.allowed,
                    short.remaining,
                    timedelta(seconds=short.retry_after),
                    short.resets_at,
                    limits.index(short.limit) + 1 if short.limit else 0,
                    short.quota,
                    *((short.ticket.taken_at, list(short.ticket.marks)) if short.ticket else _NONE),
                )

    agree()


def test_a_lease_lasts_until_the_first_of_its_windows_ends(sync: Coordinator, clock: Clock) -> None:
    limits = LimitSet([Limit(9, per=90), Limit(9, per=60)], "mail")
    question = exchange.Question("mail:7", limits, 1, durable=False, shadow=False)
    assert [sync.limit_exchange.ask(question, 2).lasts for _ in range(2)] == [60, 60]


def test_of_two_that_are_used_up_the_one_that_opens_last_binds(face: Any) -> None:
    minute, hour = Limit(3, per=60), Limit(3, per=3600)
    limiter = face.limiter("mail", minute, hour)
    assert [limiter.hit("7").limit for _ in range(3)] == [minute, minute, hour]


def test_permits_taken_the_short_way_can_be_given_back(face: Any) -> None:
    limiter = face.limiter("mail", Limit(5, per=60))
    limiter.hit("7")
    decision = limiter.hit("7", cost=1)
    assert limiter.remaining("7") == 3
    assert limiter.refund(decision)
    assert limiter.remaining("7") == 4


@pytest.mark.parametrize(
    "limits",
    [[Limit(4, per=3600)], [Limit(9, per=7200), Limit(4, per=3600)]],
    ids=["one", "two"],
)
def test_the_last_permit_goes_to_one_of_two(
    new_face: Callable[[], Any],
    database: psycopg.Connection[Any],
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    limits: list[Limit],
) -> None:
    for module in (exchange, outage):
        monkeypatch.setattr(module, "PATIENCE", 60.0)
    limiters = [new_face().limiter("mail", *limits) for _ in range(2)]
    assert [limiter.hit("7").remaining for limiter in limiters] == [3, 2]
    with ThreadPoolExecutor(2) as pool:
        with psycopg.connect(dsn) as holder:
            holder.execute("UPDATE pgsync.rate_limit_counter SET hits = hits + 1")
            answers = [pool.submit(limiter.hit, "7") for limiter in limiters]
            # Both saw room for two, and meet at the row, which has room for one.
            eventually(
                lambda: (
                    database.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database() AND query LIKE 'PREPARE%'"
                    ).fetchone()
                    == (2,)
                )
            )
        assert sorted(answer.result(30).allowed for answer in answers) == [False, True]


def test_a_window_that_ended_is_opened_anew(face: Any, clock: Clock) -> None:
    limiter = face.limiter("mail", Limit(5, per=60))
    assert [limiter.hit("7").remaining for _ in range(3)] == [4, 3, 2]
    opened = clock.move(61)
    decisions = [limiter.hit("7") for _ in range(3)]
    assert [decision.remaining for decision in decisions] == [4, 3, 2]
    assert {decision.resets_at for decision in decisions} == {opened + _MINUTE}


def test_a_session_that_refuses_the_short_way_decides_by_the_long_one(sync: Coordinator) -> None:
    limiter = sync.limiter("mail", Limit(5, per=60))
    assert [limiter.hit("7").remaining for _ in range(2)] == [4, 3]
    (kept,) = sync.limit_exchange._free
    assert kept._connection is not None
    kept._connection.execute("DEALLOCATE ALL")
    assert [limiter.hit("7").remaining for _ in range(3)] == [2, 1, 0]
    assert not limiter.hit("7").allowed
