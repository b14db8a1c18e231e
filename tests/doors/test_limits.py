"""The storage for the library limits: its three strategies, by the server's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import limits.aio.strategies
import limits.strategies
import pytest
from limits import (
    RateLimitItemPerDay,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
)
from limits.errors import StorageError
from limits.storage import storage_from_string
from psycopg.conninfo import conninfo_to_dict

from pgsync import AsyncCoordinator, ConnectionFailed, Coordinator, InvalidArgument
from pgsync.doors.limits import AsyncPostgresStorage, PostgresStorage
from tests.doors.conftest import STORAGE_TABLES, Clock
from tests.faces import Blocking

pytestmark = pytest.mark.core


class Door:
    """The library on a storage of one face; what the asyncio one awaits, the test just calls."""

    def __init__(self, dsn: str, portal: Blocking | None) -> None:
        self._portal = portal
        if portal is None:
            self.coordinator: Any = Coordinator(dsn)
            self.storage: Any = PostgresStorage(coordinator=self.coordinator)
            self._raw = self.storage
        else:
            self.coordinator = portal.wrap(lambda: AsyncCoordinator(dsn))
            self._raw = AsyncPostgresStorage(coordinator=self.coordinator.wrapped)
            self.storage = portal.wrap(lambda: self._raw)

    def strategy(self, name: str) -> Any:
        if self._portal is None:
            return limits.strategies.STRATEGIES[name](self._raw)
        return self._portal.wrap(lambda: limits.aio.strategies.STRATEGIES[name](self._raw))


@pytest.fixture(params=["blocking", "asyncio"])
def door(request: pytest.FixtureRequest, dsn: str) -> Iterator[Door]:
    with Blocking() as portal:
        made = Door(dsn, portal if request.param == "asyncio" else None)
        yield made
        made.coordinator.close()


def _kept(database: Any) -> list[int]:
    return [
        database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in STORAGE_TABLES
    ]


def _url(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    host = quote(str(parts.get("host", "")), safe="")
    password = f":{quote(str(parts['password']))}" if "password" in parts else ""
    server = f"{parts.get('user', '')}{password}@/{parts['dbname']}"
    return f"postgresql://{server}?host={host}&port={parts.get('port', 5432)}"


def test_a_fixed_window_begins_with_its_first_hit(door: Door, clock: Clock) -> None:
    limiter, minute = door.strategy("fixed-window"), RateLimitItemPerMinute(3)
    assert limiter.get_window_stats(minute, "7") == (pytest.approx(time.time(), abs=30), 3)
    assert [limiter.hit(minute, "7") for _ in range(4)] == [True, True, True, False]
    assert limiter.hit(minute, "8")
    clock.move(20)
    reset, remaining = limiter.get_window_stats(minute, "7")
    assert (reset - time.time(), remaining) == (pytest.approx(40, abs=30), 0)
    assert not limiter.test(minute, "7")
    clock.move(39.999)
    assert not limiter.hit(minute, "7")
    clock.move(0.001)
    assert limiter.test(minute, "7")
    assert limiter.hit(minute, "7")


def test_a_sliding_window_weighs_the_window_before(door: Door, clock: Clock) -> None:
    limiter, minute = door.strategy("sliding-window-counter"), RateLimitItemPerMinute(10)
    assert limiter.get_window_stats(minute, "7").remaining == 10
    assert all(limiter.hit(minute, "7") for _ in range(10))
    assert not limiter.hit(minute, "7")
    assert door.storage.get_sliding_window(minute.key_for("7"), 60) == (0, 0, 10, 120)
    clock.move(60)  # all of them weigh in full still
    assert not limiter.hit(minute, "7")
    clock.move(15)  # 7.5 of them, which the library rounds down
    assert limiter.get_window_stats(minute, "7").remaining == 3
    assert limiter.test(minute, "7", cost=3)
    assert not limiter.test(minute, "7", cost=4)
    assert not limiter.hit(minute, "7", cost=4)
    assert limiter.hit(minute, "7", cost=3)
    assert not limiter.hit(minute, "7")
    assert door.storage.get_sliding_window(minute.key_for("7"), 60) == (10, 45, 3, 105)
    clock.move(120)
    assert limiter.get_window_stats(minute, "7").remaining == 10


def test_a_moving_window_gives_back_each_permit_at_its_time(door: Door, clock: Clock) -> None:
    limiter, minute = door.strategy("moving-window"), RateLimitItemPerMinute(3)
    assert limiter.hit(minute, "7")
    clock.move(20)
    assert limiter.hit(minute, "7", cost=2)
    assert not limiter.hit(minute, "7")
    reset, remaining = limiter.get_window_stats(minute, "7")
    assert (reset - time.time(), remaining) == (pytest.approx(40, abs=30), 0)
    clock.move(40)
    assert not limiter.test(minute, "7")
    clock.move(0.001)  # a minute ago is in the window still
    assert limiter.get_window_stats(minute, "7").remaining == 1
    assert not limiter.hit(minute, "7", cost=2)
    assert limiter.hit(minute, "7")
    clock.move(20)
    assert limiter.get_window_stats(minute, "7").remaining == 2


@pytest.mark.parametrize("name", list(limits.strategies.STRATEGIES))
def test_a_cost_above_the_limit_is_refused(door: Door, name: str) -> None:
    limiter, minute = door.strategy(name), RateLimitItemPerMinute(10)
    assert not limiter.hit(minute, "7", cost=11)
    assert limiter.hit(minute, "8", cost=5)
    assert not limiter.hit(minute, "8", cost=6)


@pytest.mark.parametrize("name", ["moving-window", "sliding-window-counter"])
def test_what_costs_nothing_passes_a_full_window(door: Door, name: str) -> None:
    limiter, minute = door.strategy(name), RateLimitItemPerMinute(2)
    assert limiter.hit(minute, "7", cost=2)
    assert limiter.hit(minute, "7", cost=0)
    assert not limiter.hit(minute, "7")


@pytest.mark.parametrize("name", list(limits.strategies.STRATEGIES))
def test_clear_forgets_one_key(door: Door, name: str) -> None:
    limiter, minute = door.strategy(name), RateLimitItemPerMinute(1)
    assert limiter.hit(minute, "7")
    assert limiter.hit(minute, "8")
    limiter.clear(minute, "7")
    assert limiter.hit(minute, "7")
    assert not limiter.hit(minute, "8")


def test_reset_forgets_the_keys_of_its_prefix_and_counts_those_in_use(
    storage: PostgresStorage, sync: Coordinator, database: Any, clock: Clock
) -> None:
    other = PostgresStorage(coordinator=sync, key_prefix="OTHER")
    other.incr("kept", 3600)
    storage.incr("ended", 60)
    clock.move(60)
    storage.incr("fixed", 60)
    assert storage.acquire_entry("moving", 5, 60, 3)
    assert storage.acquire_sliding_window_entry("sliding", 5, 60)
    assert storage.reset() == 3
    assert _kept(database) == [1, 0, 0, 0]
    assert other.get("kept") == 1
    assert storage.get_moving_window("moving", 5, 60)[1] == 0


def test_a_huge_cost_is_one_entry(storage: PostgresStorage, database: Any, clock: Clock) -> None:
    million = 1_000_000
    assert storage.acquire_entry("7", million, 2)
    clock.move(1)
    assert storage.acquire_entry("7", million, 2, million - 1)
    assert not storage.acquire_entry("7", million, 2)
    clock.move(1.5)
    assert storage.get_moving_window("7", million, 2)[1] == million - 1
    assert _kept(database) == [0, 0, 1, 2]


def test_hits_take_away_entries_that_have_left(
    storage: PostgresStorage, database: Any, clock: Clock
) -> None:
    for _ in range(30):
        assert storage.acquire_entry("7", 3, 10)
        clock.move(5)
    assert _kept(database) == [0, 0, 1, 3]


def test_a_day_has_24_hours_when_the_clocks_change(dsn: str, clock: Clock) -> None:
    berlin = f"{dsn} options='-c TimeZone=Europe/Berlin'"
    clock.set(clock.now.replace(month=3, day=28))  # the next day has 23 hours there
    with Coordinator(berlin) as sync:
        storage, day = PostgresStorage(coordinator=sync), RateLimitItemPerDay(1)
        fixed, moving = (
            limits.strategies.STRATEGIES[n](storage) for n in ("fixed-window", "moving-window")
        )
        assert fixed.hit(day, "f")
        assert moving.hit(day, "m")
        clock.move(86399)
        assert not fixed.hit(day, "f")
        assert not moving.hit(day, "m")
        clock.move(1.001)
        assert fixed.hit(day, "f")
        assert moving.hit(day, "m")


def test_the_clean_up_takes_what_has_ended_in_turns(
    storage: PostgresStorage, database: Any, clock: Clock
) -> None:
    for number in range(5):
        assert storage.acquire_entry("ended", 9, 60)
        storage.incr(f"ended:{number}", 60)
    assert storage.acquire_sliding_window_entry("ended", 9, 60)
    clock.move(60 * 3 + 1)
    storage.incr("current", 600)
    assert storage.acquire_entry("current", 9, 600)
    assert storage.acquire_sliding_window_entry("current", 9, 600)
    turns = [
        database.execute("SELECT pgsync.prune_limits_storage(2)").fetchone()[0] for _ in "12345"
    ]
    assert turns == [5, 4, 3, 0, 0]
    assert _kept(database) == [1, 1, 1, 1]
    rows = database.execute("SELECT strategy, key, hits FROM pgsync.limits_storage").fetchall()
    assert sorted(rows) == [
        ("fixed window", "LIMITS:current", 1),
        ("moving window", "LIMITS:current", 1),
        ("sliding window", "LIMITS:current", 1),
    ]


def test_a_session_that_began_on_empty_tables_does_not_scan_them(database: Any) -> None:
    def scans() -> int:
        database.execute("SELECT pg_stat_force_next_flush()")
        counted = database.execute(
            "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname LIKE 'limits_storage%'"
        )
        return int(counted.fetchone()[0])

    for table in STORAGE_TABLES:
        database.execute(f"VACUUM {table}")
    before = scans()
    for _ in range(10):
        database.execute("SELECT pgsync.limits_storage_incr('7', '1 hour')")
        database.execute("SELECT pgsync.limits_storage_acquire_sliding('7', 99, '1 hour')")
        database.execute("SELECT pgsync.limits_storage_acquire_entry('7', 99, '1 hour')")
        database.execute("SELECT pgsync.limits_storage_get_moving('7', '1 hour')")
    assert scans() == before


def test_a_storage_is_made_from_its_uri(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = storage_from_string(f"pgsync+{_url(dsn)}", pool_size=1)
    assert isinstance(made, PostgresStorage)
    assert made.check()
    assert made.incr("7", 60, 2) == 2
    monkeypatch.setenv("PGSYNC_DSN", dsn)
    assert storage_from_string("pgsync://").get("7") == 2  # type: ignore[union-attr]
    with Blocking() as portal:
        waits = portal.wrap(lambda: storage_from_string(f"async+pgsync+{_url(dsn)}"))
        assert isinstance(waits.wrapped, AsyncPostgresStorage)
        assert waits.check()
        assert waits.get("7") == 2
        waits.close()


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    unused = f"postgresql://nobody@/nothing?host={quote(str(tmp_path), safe='')}"
    wrapped = PostgresStorage(f"pgsync+{unused}", wrap_exceptions=True)
    assert not wrapped.check()
    with pytest.raises(StorageError) as caught:
        wrapped.incr("7", 60)
    assert isinstance(caught.value.storage_error, ConnectionFailed)
    with pytest.raises(ConnectionFailed):
        PostgresStorage(f"pgsync+{unused}").acquire_entry("7", 1, 60)


_HITS = pytest.mark.parametrize(
    ("hit", "arguments"),
    [("incr", (60,)), ("acquire_entry", (9, 60)), ("acquire_sliding_window_entry", (9, 60))],
)


@_HITS
def test_a_hit_that_gets_no_connection_fails_when_its_patience_ends(
    dsn: str, hit: str, arguments: tuple[int, ...]
) -> None:
    with Coordinator(dsn, pool_size=1) as busy:
        storage = PostgresStorage(coordinator=busy, patience=0.1)
        assert getattr(storage, hit)("7", *arguments)
        with busy.database.connection():
            with pytest.raises(ConnectionFailed, match="became free in time"):
                getattr(storage, hit)("7", *arguments)
            assert not storage.check()
        assert getattr(storage, hit)("7", *arguments)


@_HITS
def test_an_awaited_hit_has_the_same_patience(
    dsn: str, hit: str, arguments: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with AsyncCoordinator(dsn, pool_size=1) as busy:
            storage = AsyncPostgresStorage(coordinator=busy, patience=0.1)
            async with busy.database.connection(), asyncio.timeout(25):  # below the pool's own
                with pytest.raises(ConnectionFailed, match="became free in time"):
                    await getattr(storage, hit)("7", *arguments)
            assert await getattr(storage, hit)("7", *arguments)

    asyncio.run(main())


def test_bad_keys_and_amounts_are_refused(storage: PostgresStorage, database: Any) -> None:
    for key in ("nul\0", "lone \ud800", "x" * 2000):
        with pytest.raises(InvalidArgument):
            storage.incr(key, 60)
        with pytest.raises(InvalidArgument):
            storage.acquire_entry(key, 1, 60)
    for expiry, amount in ((0, 1), (-1, 1), (60, -1)):
        with pytest.raises(InvalidArgument):
            storage.acquire_sliding_window_entry("7", 1, expiry, amount)
    with pytest.raises(InvalidArgument):
        storage.incr("7", 60, 2**63)
    with pytest.raises(InvalidArgument):
        storage.incr("7", 10**20)
    for function in ("acquire_entry", "acquire_sliding"):
        ask = f"SELECT pgsync.limits_storage_{function}('7', NULL, '1 minute')"
        assert database.execute(ask).fetchone() == (False,)
    assert _kept(database) == [0, 0, 0, 0]


def test_a_second_is_the_shortest_window(storage: PostgresStorage) -> None:
    limiter = limits.strategies.MovingWindowRateLimiter(storage)
    assert limiter.hit(RateLimitItemPerSecond(1), "7")
    assert not limiter.hit(RateLimitItemPerSecond(1), "7")
