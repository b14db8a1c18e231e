"""What is known only afterwards: permits given back, and reservations that are settled."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

from pgsync import InvalidArgument, Limit, RateLimited, SlidingWindow, TokenBucket
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

HOUR = 3600


@pytest.mark.parametrize(
    "limit", [Limit(5, per=HOUR), SlidingWindow(5, per=HOUR), TokenBucket(5, per=HOUR)], ids=str
)
def test_what_was_not_needed_is_given_back(face: Any, limit: Limit) -> None:
    limiter = face.limiter("graph", limit)
    decision = limiter.hit("7", cost=5)
    assert not limiter.hit("7").allowed
    assert limiter.refund(decision, 2)
    assert limiter.hit("7", cost=2).allowed
    with pytest.raises(InvalidArgument, match="from 1 to 5"):
        limiter.refund(decision, 6)


def test_a_hit_of_an_ended_window_is_not_given_back(face: Any, clock: Clock) -> None:
    limiter = face.limiter("graph", Limit(2, per=60), remember=0)
    decision = limiter.hit("7", cost=2)
    clock.move(60)
    limiter.hit("7")
    assert not limiter.refund(decision)
    assert limiter.remaining("7") == 1


def test_a_reservation_is_settled_with_what_it_cost(face: Any) -> None:
    limiter = face.limiter("tokens", Limit(100, per=HOUR))
    limiter.reserve("7", 60).settle(10)
    assert limiter.remaining("7") == 90
    with pytest.raises(RateLimited):
        limiter.reserve("7", 91)
    late = limiter.reserve("7", 90)
    assert late.settle(120)
    assert not late.settle(1)
    assert limiter.remaining("7") == 0
    limiter.clear("7")
    with pytest.raises(ValueError, match="fails"), limiter.reserve("7", 50):
        raise ValueError("what it was for fails")
    assert limiter.remaining("7") == 100
    with limiter.reserve("7", 50) as held:
        held.settle(20)
    with limiter.reserve("7", 30):
        pass
    assert limiter.remaining("7") == 50


def test_a_reservation_that_expired_stands_and_is_forgotten(
    face: Any, database: psycopg.Connection[Any], clock: Clock
) -> None:
    limiter = face.limiter("tokens", Limit(100, per=86400))
    held = limiter.reserve("7", 60, ttl=30)
    clock.move(30)
    assert not held.cancel()
    assert limiter.remaining("7") == 40
    clock.move(61)
    assert database.execute("SELECT pgsync.prune_rate_limits()").fetchone() == (1,)


def test_a_reservation_that_nobody_settles_leaves_as_a_hit_does(face: Any, clock: Clock) -> None:
    bucket = face.limiter("bucket", TokenBucket(60, per=60))
    window = face.limiter("window", Limit(60, per=60))
    for limiter in (bucket, window):
        limiter.reserve("7", 60, ttl=10)
    clock.move(30)
    assert (bucket.remaining("7"), window.remaining("7")) == (30, 0)
    clock.move(30)
    assert (bucket.remaining("7"), window.remaining("7")) == (60, 60)


def test_a_settlement_that_comes_too_late_is_told(
    face: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = face.limiter("tokens", Limit(100, per=HOUR))
    with caplog.at_level(logging.WARNING, "pgsync.limits"):
        with limiter.reserve("7", 60, ttl=10) as held:
            clock.move(10)
            assert not held.settle(90)
        assert not held.settle(90), "and once only"
        with limiter.reserve("7", 40, ttl=10):
            clock.move(9)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("a reservation of 'tokens:7' had expired before it was settled with 90")
    assert limiter.remaining("7") == 0
