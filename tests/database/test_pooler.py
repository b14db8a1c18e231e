"""Behind a real PgBouncer: what needs a session of its own is refused where sessions are shared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from pgsync import (
    AsyncCoordinator,
    ConnectionFailed,
    Coordinator,
    Limit,
    LockHeld,
    PgsyncError,
    PoolerDetected,
)
from pgsync.cli.main import cli
from pgsync.database.migrations import migrate
from pgsync.database.pooler import comes_through_pooler
from pgsync.database.session import open_session, open_session_async
from pgsync.modules.database import engine_for
from tests.eventually import eventually
from tests.pgbouncer import PgBouncer
from tests.relay import Relay
from tests.threads import at_once

_REMEDY = "direct_dsn= or PGSYNC_DIRECT_DSN"


@pytest.fixture
def new_bouncer(dsn: str) -> Iterator[Callable[..., PgBouncer]]:
    """Starts PgBouncers before the test's database, in the mode and with the settings given."""
    with ExitStack() as stack:
        yield lambda mode, **settings: stack.enter_context(PgBouncer(dsn, mode, settings))


@pytest.fixture
def shared(new_bouncer: Callable[..., PgBouncer]) -> str:
    """A way to the test's database on which sessions are shared."""
    return new_bouncer("transaction").dsn


def _open_blocking(dsn: str) -> None:
    open_session(dsn, "test").close()


def _open_async(dsn: str) -> None:
    async def open_and_close() -> None:
        await (await open_session_async(dsn, "test")).close()

    asyncio.run(open_and_close())


both = pytest.mark.parametrize("opening", [_open_blocking, _open_async])


@contextmanager
def _transactions(dsn: str, count: int) -> Iterator[None]:
    """Transactions of other clients, all open at once."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(psycopg.connect(dsn)).execute("SELECT")
        yield


# --- telling ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_shared_sessions_are_refused_with_the_remedy(
    opening: Callable[[str], None], mode: str, new_bouncer: Callable[..., PgBouncer]
) -> None:
    with pytest.raises(PoolerDetected, match=_REMEDY) as caught:
        opening(new_bouncer(mode).dsn)
    assert "shares server sessions" in str(caught.value)


@both
def test_a_session_of_ones_own_is_accepted(
    opening: Callable[[str], None], dsn: str, new_bouncer: Callable[..., PgBouncer]
) -> None:
    opening(dsn)
    opening(new_bouncer("session").dsn)


@pytest.mark.parametrize("idle", [1, 6, 7, 8, 14])
def test_sessions_given_out_in_turn_are_seen_to_be_shared(
    idle: int, new_bouncer: Callable[..., PgBouncer]
) -> None:
    way = new_bouncer("transaction", server_round_robin=1).dsn
    with _transactions(way, idle):
        pass
    with pytest.raises(PoolerDetected, match="shares server sessions"):
        _open_blocking(way)


def test_shared_sessions_are_seen_while_others_are_busy(
    new_bouncer: Callable[..., PgBouncer],
) -> None:
    way = new_bouncer("transaction").dsn
    ended = threading.Event()

    def work() -> None:
        with psycopg.connect(way) as connection:
            while not ended.is_set():
                with connection.transaction():
                    connection.execute("SELECT pg_sleep(0.0005)", prepare=False)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with pytest.raises(PoolerDetected):
                _open_blocking(way)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_several_poolers_behind_one_address_are_seen_to_share(
    new_bouncer: Callable[..., PgBouncer],
) -> None:
    ways = [new_bouncer("transaction").dsn for _ in range(3)]
    with Relay(*ways) as relay, pytest.raises(PoolerDetected, match="shares server sessions"):
        _open_blocking(relay.dsn)


def test_several_poolers_behind_one_address_may_give_sessions(
    new_bouncer: Callable[..., PgBouncer],
) -> None:
    ways = [new_bouncer("session").dsn for _ in range(2)]
    with Relay(*ways) as relay:
        _open_blocking(relay.dsn)


@both
def test_a_pool_that_is_used_up_is_refused_in_time(
    opening: Callable[[str], None], new_bouncer: Callable[..., PgBouncer]
) -> None:
    way = new_bouncer("transaction", default_pool_size=1).dsn
    began = time.monotonic()
    with _transactions(way, 1), pytest.raises(ConnectionFailed, match="used up"):
        opening(way)
    assert time.monotonic() - began < 15


def test_too_few_sessions_to_tell_are_refused_in_time(
    new_bouncer: Callable[..., PgBouncer],
) -> None:
    way = new_bouncer("session", default_pool_size=3).dsn
    began = time.monotonic()
    with pytest.raises(PoolerDetected, match=_REMEDY) as caught:
        _open_blocking(way)
    assert "used up" in str(caught.value)
    assert time.monotonic() - began < 15


# --- what works, and what does not -----------------------------------------------------------


def test_a_lock_is_refused_where_sessions_are_shared(shared: str) -> None:
    with (
        Coordinator(shared) as sync,
        pytest.raises(PoolerDetected, match=_REMEDY),
        sync.lock("shared", ttl=30),
    ):
        pass


def test_a_lock_excludes_where_each_client_has_a_session(
    new_bouncer: Callable[..., PgBouncer],
) -> None:
    way = new_bouncer("session").dsn
    with (
        Coordinator(way) as one,
        Coordinator(way) as other,
        one.lock("mine", ttl=30),
        pytest.raises(LockHeld),
        other.lock("mine", ttl=30),
    ):
        pass


def test_a_direct_dsn_is_the_remedy(dsn: str, shared: str) -> None:
    with Coordinator(shared, dsn) as sync, Coordinator(dsn) as other:
        with sync.lock("mine", ttl=30), pytest.raises(LockHeld), other.lock("mine", ttl=30):
            pass

        done: list[int] = []

        @sync.task()
        def work(number: int) -> None:
            done.append(number)

        sync.start()
        for number in range(20):
            work.enqueue(number=number)
        eventually(lambda: len(done) == 20)
        with sync.database.connection() as connection:
            assert comes_through_pooler(connection)


def test_transaction_locks_exclude_through_it(shared: str, dsn: str) -> None:
    with (
        Coordinator(shared, direct_dsn=dsn) as sync,
        psycopg.connect(shared) as one,
        psycopg.connect(shared) as other,
    ):
        sync.transaction_lock(one, "mine").acquire()
        with pytest.raises(LockHeld):
            sync.transaction_lock(other, "mine").acquire()
        with pytest.raises(LockHeld):  # a session's lock of that name is the same lock
            sync.lock("mine", ttl=60).acquire()
        one.commit()
        sync.transaction_lock(other, "mine").acquire()


def test_migrations_are_refused_where_sessions_are_shared(
    empty_dsn: str, database: psycopg.Connection[Any]
) -> None:
    with PgBouncer(empty_dsn, "transaction") as bouncer, pytest.raises(PoolerDetected):
        migrate(bouncer.dsn)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('pgsync')").fetchone() == (None,)


def test_the_daemon_is_refused_where_sessions_are_shared(shared: str) -> None:
    with Coordinator(shared) as sync:
        with pytest.raises(PoolerDetected, match=_REMEDY):
            sync.start()
        with pytest.raises(PoolerDetected, match=_REMEDY):
            sync.run_worker(drain=True)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_pool_works_through_it(mode: str, new_bouncer: Callable[..., PgBouncer]) -> None:
    # Two sessions for many clients: what one prepared, another would miss, or meet again.
    way = new_bouncer(mode, default_pool_size=2 if mode == "transaction" else 20).dsn
    failed: list[PgsyncError | psycopg.Error] = []

    def use() -> None:
        try:
            with Coordinator(way) as sync:
                limiter = sync.limiter("mail", Limit(1000, per=60))
                task = sync.task(name="work")(lambda: None)
                for _ in range(20):
                    assert limiter.hit("one").allowed
                    task.enqueue()
        except (PgsyncError, psycopg.Error) as error:
            failed.append(error)

    at_once([use] * 4)
    assert failed == []


def test_the_modules_engine_works_through_it(new_bouncer: Callable[..., PgBouncer]) -> None:
    way = new_bouncer("transaction", default_pool_size=2).dsn
    failed: list[SQLAlchemyError] = []

    def use() -> None:
        engine = engine_for(way)
        try:
            for _ in range(20):
                with engine.begin() as connection:
                    connection.execute(text("SELECT count(*) FROM pgsync_modules.workspace"))
        except SQLAlchemyError as error:
            failed.append(error)
        finally:
            engine.dispose()

    at_once([use] * 4)
    assert failed == []


def test_the_doctor_finds_shared_sessions(dsn: str, shared: str) -> None:
    found = CliRunner().invoke(cli, ["doctor", "--dsn", shared])
    assert found.exit_code == 4
    assert _REMEDY in found.output
    found = CliRunner().invoke(cli, ["doctor", "--dsn", shared, "--direct-dsn", dsn])
    assert found.exit_code == 0, found.output


def test_the_asyncio_pool_works_through_it(new_bouncer: Callable[..., PgBouncer]) -> None:
    way = new_bouncer("transaction", default_pool_size=2).dsn

    async def use() -> None:
        async with AsyncCoordinator(way) as sync:
            limiter = sync.limiter("mail", Limit(1000, per=60))
            for _ in range(20):
                assert (await limiter.hit("one")).allowed

    async def use_at_once() -> None:
        await asyncio.gather(*(use() for _ in range(4)))

    asyncio.run(use_at_once())
