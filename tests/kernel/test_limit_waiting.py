"""Waiting for permits: in turn, without a connection, bounded in time and number."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, Limit, RateLimited, TokenBucket
from tests.eventually import eventually

pytestmark = pytest.mark.core

HOUR = 3600


def test_waiters_are_served_in_the_order_in_which_they_came(sync: Coordinator) -> None:
    limiter = sync.limiter("graph", TokenBucket(10, per=1, burst=1))
    limiter.hit("7")
    served: list[int] = []
    threads = []
    for place in range(5):

        def wait(place: int = place) -> None:
            limiter.acquire("7", timeout=30)
            served.append(place)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        came = place + 1
        eventually(lambda came=came: limiter.explain("7")[0].waiting + len(served) >= came)
    for thread in threads:
        thread.join(30)
    assert served == sorted(served)


def test_who_waits_holds_no_connection(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    limiter = sync.limiter("graph", Limit(1, per=1))
    limiter.hit("7")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(limiter.acquire, "7", timeout=30) for _ in range(3)]
        eventually(lambda: limiter.explain("7")[0].waiting == 3)
        busy = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state LIKE 'idle in%' AND datname = current_database()"
        )
        assert database.execute(busy).fetchone() == (0,)
        assert sync.limiter("graph", Limit(1, per=1)).hit("other").allowed
        assert all(one.result(30).allowed for one in waiting)


def test_a_wait_that_would_be_in_vain_is_not_begun(face: Any) -> None:
    limiter = face.limiter("graph", TokenBucket(1, per=7200, burst=1))
    limiter.hit("7")
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("7", timeout=3600)
    assert 3600 < caught.value.retry_after <= 7200
    assert limiter.explain("7")[0].waiting == 0


def test_a_cancelled_task_gives_its_place_back(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as sync:
            limiter = sync.limiter("graph", Limit(1, per=HOUR))
            await limiter.hit("7")
            tasks = [asyncio.create_task(limiter.acquire("7", timeout=9 * HOUR)) for _ in range(3)]

            async def waiting() -> int:
                return (await limiter.explain("7"))[0].waiting

            while await waiting() < 3:  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await waiting() == 0
            assert (await limiter.peek("7")).retry_after <= HOUR

    asyncio.run(scenario())


def test_waiters_are_bounded_in_number(database: psycopg.Connection[Any]) -> None:
    acquire = (
        "SELECT allowed FROM pgsync.rate_limit_acquire('k', '{1}', '{1 hour}', 1, '1 day',"
        " most_waiting => 3)"
    )
    answers = [database.execute(acquire).fetchone() for _ in range(6)]
    assert answers == [(True,)] * 4 + [(False,)] * 2


def test_a_penalty_holds_up_even_those_who_wait(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=0.5))
    limiter.hit("7")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, "7", timeout=30)
        eventually(lambda: limiter.explain("7")[0].waiting)
        until = limiter.penalize("7", 1.2)
        decision = waiting.result(30)
    assert decision.allowed
    assert datetime.now(UTC) >= until - timedelta(seconds=0.1)
    assert decision.ticket.taken_at >= until
