"""Fewer round trips than hits: denials that are remembered, hits at once, leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, Limit
from pgsync.limits import exchange, outage
from tests.eventually import eventually

pytestmark = pytest.mark.core

HOUR = 3600


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
    sync: Coordinator,
    database: psycopg.Connection[Any],
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (exchange, outage):
        monkeypatch.setattr(module, "PATIENCE", 60.0)
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
