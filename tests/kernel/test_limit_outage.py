"""The database away: what limiters do then, within which time, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, Limit, LimitUndecided
from pgsync.limits import exchange, outage
from tests.eventually import eventually
from tests.relay import Relay


def _hits(dsn: str, relay: Relay, asynchronous: bool, on_outage: Any) -> list[Any]:
    """What is seen of a hit, before the database goes away, and of two after."""

    async def scenario() -> list[Any]:
        async with AsyncCoordinator(dsn) as sync:
            limiter = sync.limiter("graph", Limit(9, per=60), on_outage=on_outage)
            seen: list[Any] = [await limiter.hit("7")]
            relay.__exit__(None, None, None)
            for _ in range(2):
                try:
                    seen.append(await limiter.hit("7"))
                except LimitUndecided as error:
                    seen.append(error)
            return [*seen, limiter.outage]

    if asynchronous:
        return asyncio.run(scenario())
    with Coordinator(dsn) as sync:
        limiter = sync.limiter("graph", Limit(9, per=60), on_outage=on_outage)
        seen: list[Any] = [limiter.hit("7")]
        relay.__exit__(None, None, None)
        for _ in range(2):
            try:
                seen.append(limiter.hit("7"))
            except LimitUndecided as error:
                seen.append(error)
        return [*seen, limiter.outage]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_nothing_passes_while_the_database_is_away(
    dsn: str, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(dsn).__enter__()
    began = time.monotonic()
    with caplog.at_level(logging.ERROR, "pgsync.limits"):
        before, first, second, state = _hits(relay.dsn, relay, asynchronous, "closed")
    assert time.monotonic() - began < 10
    assert before.allowed
    assert isinstance(first, LimitUndecided)
    assert isinstance(second, LimitUndecided)
    assert "on_outage='open'" in str(first)
    assert (state.count, state.refused, state.let_pass) == (1, 2, 0)
    assert [record.message for record in caplog.records if "cannot be decided" in record.message]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_everything_passes_where_that_is_asked_for(dsn: str, asynchronous: bool) -> None:
    relay = Relay(dsn).__enter__()
    _, first, second, state = _hits(relay.dsn, relay, asynchronous, "open")
    assert first.allowed
    assert first.undecided
    assert second.undecided
    assert (state.count, state.refused, state.let_pass) == (1, 0, 2)


def test_limits_are_decided_again_when_the_database_is_back(
    sync: Coordinator, database: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    limiter = sync.limiter("graph", Limit(999, per=60), on_outage="open")
    limiter.hit("7")
    end_sessions = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    database.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    )
    database.execute(
        "CREATE TRIGGER die BEFORE UPDATE ON pgsync.rate_limit_counter"
        " FOR EACH ROW EXECUTE FUNCTION die()"
    )
    assert limiter.hit("7").undecided
    database.execute("DROP TRIGGER die ON pgsync.rate_limit_counter")
    with caplog.at_level(logging.WARNING, "pgsync.limits"):
        eventually(lambda: not limiter.hit("7").undecided)
    assert any("decided again" in record.message for record in caplog.records)
    # A session that was ended while it idled is replaced, and no hit hears of it.
    eventually(lambda: not database.execute(end_sessions).fetchall())
    assert not limiter.hit("7").undecided


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_a_hit_does_not_wait_longer_than_it_may(
    dsn: str, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    for module in (exchange, outage):
        monkeypatch.setattr(module, "PATIENCE", 0.5)

    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as sync:
            limiter = sync.limiter("graph", Limit(9, per=60))
            with pytest.raises(LimitUndecided, match="has not answered"):
                await limiter.hit("slow")
            assert (await limiter.hit("quick")).allowed

    with Coordinator(dsn) as sync, psycopg.connect(dsn) as slow:
        slow.execute("SELECT pgsync.rate_limit_hit('graph:slow', 9, '1 minute')")
        if asynchronous:
            asyncio.run(scenario())
            return
        limiter = sync.limiter("graph", Limit(9, per=60))
        with pytest.raises(LimitUndecided, match="has not answered"):
            limiter.hit("slow")
        assert limiter.hit("quick").allowed
