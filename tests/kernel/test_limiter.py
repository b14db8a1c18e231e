"""Limiters in Python: what both faces offer, with the answers that callers see."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
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


def test_durable_counts_are_on_the_disk_when_they_are_told(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    database.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO told VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    database.execute("CREATE TABLE told (setting text)")
    database.execute(
        "CREATE TRIGGER tell AFTER INSERT OR UPDATE ON pgsync.rate_limit_counter"
        " FOR EACH ROW EXECUTE FUNCTION tell()"
    )
    sync.limiter("graph", Limit(9, per=60)).hit("7")
    sync.limiter("graph", Limit(9, per=60), durable=True).hit("7")
    assert database.execute("SELECT setting FROM told").fetchall() == [("off",), ("on",)]


def test_a_denial_is_remembered_for_a_while_only(
    face: Any, new_face: Callable[[], Any], database: psycopg.Connection[Any]
) -> None:
    limiter = face.limiter("graph", Limit(2, per=HOUR), remember=HOUR)
    limiter.hit("7")
    assert not limiter.hit("7", cost=2).allowed
    database.execute("SELECT pgsync.rate_limit_clear('graph:7')")
    assert not limiter.hit("7", cost=2).allowed, "it asked again"
    assert limiter.hit("7").allowed, "fewer than were refused may pass"
    quick = face.limiter("mail", Limit(1, per=HOUR), remember=0.05)
    quick.hit("7")
    assert not quick.hit("7").allowed
    new_face().limiter("mail", Limit(1, per=HOUR)).clear("7")
    eventually(lambda: quick.hit("7").allowed)


def test_what_a_denial_remembers_goes_on_counting_down(face: Any) -> None:
    limiter = face.limiter("graph", Limit(1, per=0.3), remember=60)
    limiter.hit("7")
    first = limiter.hit("7").retry_after
    assert eventually(lambda: limiter.hit("7").retry_after < first)
    assert eventually(lambda: limiter.hit("7").allowed)


def test_hits_at_once_share_round_trips_and_are_shared_out_in_turn(
    sync: Coordinator, database: psycopg.Connection[Any], dsn: str
) -> None:
    limiter = sync.limiter("graph", Limit(12, per=HOUR), remember=0)
    limiter.hit("7", cost=2)
    with ThreadPoolExecutor(20) as pool:
        with psycopg.connect(dsn) as holder:
            holder.execute("SELECT FROM pgsync.rate_limit_counter FOR UPDATE")
            hits = [pool.submit(limiter.hit, "7") for _ in range(20)]
            (line,) = [
                line
                for question, line in sync.limit_exchange._lines._lines.items()
                if question.cost == 1
            ]
            eventually(lambda: len(line.combiner._queue) == 19)
        decisions = [hit.result(30) for hit in hits]
    assert sum(decision.allowed for decision in decisions) == 10
    allowed = [decision.remaining for decision in decisions if decision.allowed]
    assert sorted(allowed) == list(range(10))
    (calls,) = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%rate_limit_take%'"
        " AND datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone() or (0,)
    assert calls == 1


def test_tasks_that_hit_at_once_share_round_trips(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as sync:
            limiter = sync.limiter("graph", Limit(10, per=HOUR), remember=0)
            decisions = await asyncio.gather(*(limiter.hit("7") for _ in range(30)))
            assert sum(decision.allowed for decision in decisions) == 10
            assert [d.allowed for d in decisions] == [True] * 10 + [False] * 20

    asyncio.run(scenario())


def test_leased_permits_are_handed_out_without_the_database(
    face: Any, database: psycopg.Connection[Any]
) -> None:
    limiter = face.limiter("graph", Limit(100, per=HOUR), lease=30)
    taken = "SELECT hits FROM pgsync.rate_limits WHERE key = 'graph:7'"
    assert limiter.hit("7").remaining == 99
    assert database.execute(taken).fetchone() == (30,)
    for _ in range(29):
        assert limiter.hit("7").allowed
    assert database.execute(taken).fetchone() == (30,)
    # The last lease is of ten only.
    assert [limiter.hit("7").allowed for _ in range(71)] == [True] * 70 + [False]


def test_what_is_left_of_a_lease_is_given_back_at_the_end(
    new_face: Callable[[], Any], database: psycopg.Connection[Any]
) -> None:
    coordinator = new_face()
    limiter = coordinator.limiter("graph", Limit(100, per=HOUR), Limit(200, per=86400), lease=50)
    limiter.hit("7", cost=3)
    coordinator.close()
    rows = database.execute("SELECT hits FROM pgsync.rate_limits WHERE key = 'graph:7'").fetchall()
    assert rows == [(3,), (3,)]


def test_a_lease_ends_with_its_window(face: Any) -> None:
    limiter = face.limiter("graph", Limit(4, per=0.3), lease=4)
    first = limiter.hit("7")
    eventually(lambda: datetime.now(UTC) > first.resets_at)
    later = limiter.hit("7")
    assert later.resets_at > first.resets_at
    assert later.remaining == 3, "permits of the ended window were used"


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


def test_the_timeout_is_never_overshot(face: Any) -> None:
    limiter = face.limiter("graph", TokenBucket(1, per=0.5, burst=1))
    limiter.hit("7")
    began = time.monotonic()
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("7", timeout=0.4)
    assert time.monotonic() - began < 0.4
    assert 0.3 < caught.value.retry_after <= 0.5
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
