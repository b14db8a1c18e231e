"""Limiters in Python: what both faces offer, with the answers that callers see."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgsync import (
    AsyncCoordinator,
    Coordinator,
    InvalidArgument,
    Limit,
    RateLimited,
    SlidingWindow,
    TokenBucket,
)
from tests.eventually import eventually
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

HOUR = 3600


def test_a_sliding_window_frees_what_lies_behind_it(face: Any, clock: Clock) -> None:
    limiter = face.limiter("graph", SlidingWindow(10, per=60), remember=0)
    assert limiter.hit("7", cost=10).remaining == 0
    refused = limiter.hit("7")
    assert (refused.allowed, refused.retry_after) == (False, 66)
    clock.move(66)
    assert limiter.hit("7").allowed
    assert not limiter.hit("7").allowed


def test_a_bucket_gives_its_burst_and_then_as_it_fills(face: Any, clock: Clock) -> None:
    limiter = face.limiter("graph", TokenBucket(60, per=60, burst=5), remember=0)
    assert [limiter.hit("7").remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    assert limiter.hit("7").retry_after == 1
    clock.move(2)
    assert [limiter.hit("7").allowed for _ in range(3)] == [True, True, False]


def test_the_answer_names_the_limit_that_binds(face: Any) -> None:
    bucket, day = TokenBucket(100, per=60, burst=2), SlidingWindow(3, per=86400)
    limiter = face.limiter("graph", bucket, day)
    assert limiter.hit("7").limit == bucket
    limiter.hit("7")
    assert limiter.hit("7").limit == bucket
    limiter.penalize("8", 60)
    assert limiter.hit("8").limit is None


def test_a_key_may_be_any_value_with_a_text(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=60))
    assert limiter.hit(7).key == "graph:7"
    assert not limiter.hit("7").allowed


def test_laravels_names(face: Any) -> None:
    limiter = face.limiter("login", Limit(2, per=60))
    assert limiter.remaining("ann") == 2
    assert not limiter.too_many_attempts("ann")
    assert limiter.available_in("ann") == 0
    limiter.hit("ann", cost=2)
    assert limiter.too_many_attempts("ann")
    assert 50 < limiter.available_in("ann") <= 60
    limiter.clear("ann")
    assert limiter.remaining("ann") == 2


def test_an_attempt_is_made_within_the_limit_only(sync: Coordinator) -> None:
    limiter = sync.limiter("login", Limit(1, per=60))
    assert limiter.attempt("ann", lambda: "in") == "in"
    with pytest.raises(RateLimited):
        limiter.attempt("ann", lambda: pytest.fail("it was called"))


def test_shadow_mode_refuses_nothing_and_counts(face: Any) -> None:
    limiter = face.limiter("graph", Limit(2, per=HOUR), shadow=True)
    decisions = [limiter.hit("7") for _ in range(5)]
    assert all(decision.allowed for decision in decisions)
    assert [decision.shadowed for decision in decisions] == [False, False, True, True, True]
    (state,) = limiter.explain("7")
    assert (state.shadowed, state.hits) == (3, 2)
    assert limiter.acquire("7").shadowed


def test_a_penalty_until_a_moment_closes_the_key(face: Any) -> None:
    limiter = face.limiter("graph", Limit(9, per=60))
    until = datetime.now(UTC) + timedelta(seconds=90)
    assert limiter.penalize("7", until, "Retry-After") == until
    assert 80 < limiter.hit("7").retry_after <= 90
    with pytest.raises(InvalidArgument, match="aware"):
        limiter.penalize("7", datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_explain_says_what_binds_until_when_and_who_waits(sync: Coordinator) -> None:
    limiter = sync.limiter("graph", Limit(1, per=2), Limit(1000, per=86400))
    limiter.hit("7")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, "7", timeout=30)
        eventually(lambda: limiter.explain("7")[0].waiting)
        second, day = limiter.explain("7")
        assert (second.state, second.max, second.algorithm) == ("full", 1, "fixed")
        assert second.opens_at is not None
        assert (day.state, day.hits, day.opens_at) == ("open", 2, None)
        assert waiting.result(30).allowed
    limiter.penalize("8", 60, "asked to wait")
    (penalised,) = limiter.explain("8")
    assert (penalised.state, penalised.penalty_reason) == ("penalised", "asked to wait")
    assert limiter.explain("nobody") == []


def test_one_tenant_is_raised_while_running(face: Any, database: psycopg.Connection[Any]) -> None:
    limiter = face.limiter("graph", Limit(1, per=HOUR), TokenBucket(2, per=86400, burst=4))
    limiter.hit("7")
    assert not limiter.hit("7").allowed
    face.set_limit("graph:7", 50, per=HOUR, by="ann", why="ticket 9")
    face.set_limit("graph:7", 100, per=86400)
    decisions = [limiter.hit("7") for _ in range(50)]
    assert [decision.allowed for decision in decisions] == [True] * 49 + [False]
    assert decisions[0].quota == 50
    assert limiter.hit("8").allowed
    assert not limiter.hit("8").allowed
    (hour, day) = face.list_set_limits()
    assert (hour.key, hour.max, hour.set_by, hour.reason) == ("graph:7", 50, "ann", "ticket 9")
    assert day.burst is None
    audited = database.execute("SELECT action, actor FROM pgsync.audit ORDER BY id").fetchone()
    assert audited == ("set limit", "ann")
    assert face.unset_limit("graph:7", per=HOUR)
    assert not face.unset_limit("graph:7", per=HOUR)
    assert not limiter.hit("7").allowed


def test_a_limit_set_below_the_cost_refuses_and_raises_nothing(face: Any) -> None:
    limiter = face.limiter("graph", Limit(10, per=60))
    face.set_limit("graph:7", 2, per=60)
    refused = limiter.hit("7", cost=5)
    assert (refused.allowed, refused.quota, refused.retry_after) == (False, 2, 60)
    with pytest.raises(InvalidArgument):
        face.set_limit("graph:7", 0, per=60)


def test_permits_for_with_and_for_decorators(sync: Coordinator) -> None:
    limiter = sync.limiter("graph", Limit(1, per=HOUR))

    @limiter.permit("connection:{connection_id}")
    def call(connection_id: int) -> int:
        return connection_id

    assert call(7) == 7
    with pytest.raises(RateLimited):
        call(connection_id=7)
    assert call(8) == 8
    with limiter.permit("9") as permit:
        assert permit.decision.remaining == 0
    with pytest.raises(RateLimited), limiter.permit("9"):
        pytest.fail("it was entered")


def test_permits_of_coroutines(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as sync:
            limiter = sync.limiter("graph", Limit(1, per=HOUR))

            @limiter.permit("connection:{connection_id}")
            async def call(connection_id: int) -> int:
                return connection_id

            assert await call(7) == 7
            with pytest.raises(RateLimited):
                await call(7)

    asyncio.run(scenario())


def test_header_fields_of_an_answer(face: Any, clock: Clock) -> None:
    one = face.limiter("graph", Limit(10, per=60))
    assert one.headers(one.hit("7")) == {
        "RateLimit-Policy": '"graph";q=10;w=60',
        "RateLimit": '"graph";r=9;t=60',
    }
    two = face.limiter("api", Limit(1, per=60), SlidingWindow(1000, per=86400))
    two.hit("7")
    clock.move(20.5)
    assert two.headers(two.hit("7")) == {
        "RateLimit-Policy": '"api-60";q=1;w=60, "api-86400";q=1000;w=86400',
        "RateLimit": '"api-60";r=0;t=40',
        "Retry-After": "40",
    }


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        ([TokenBucket(9, per=1)], {"lease": 3}),
        ([Limit(9, per=1)], {"lease": -1}),
        ([Limit(9, per=1)], {"lease": 3, "shadow": True}),
        ([Limit(9, per=1)], {"on_outage": "ajar"}),
        ([Limit(9, per=1)], {"leese": 3}),
        ([Limit(9, per=1)], {"remember": -1}),
        ([Limit(9, per=1), Limit(3, per=1)], {}),
        (["10/minute"], {}),
    ],
)
def test_options_that_cannot_work_are_refused(sync: Coordinator, limits: Any, options: Any) -> None:
    with pytest.raises(InvalidArgument):
        sync.limiter("graph", *limits, **options)


def test_a_token_bucket_is_no_limit_of_starts(sync: Coordinator) -> None:
    with pytest.raises(InvalidArgument, match="fixed window"):
        sync.limit_queue("mail", max_starts=TokenBucket(5, per=1))
