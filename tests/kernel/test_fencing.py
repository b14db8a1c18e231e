"""Fencing: tokens that never go back, guarded commits, and fences for what is outside."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgsync import (
    AsyncCoordinator,
    Coordinator,
    InvalidArgument,
    LockHeld,
    LockLost,
    StaleToken,
)
from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually

_REPLICATED = {"fsync": "off", "wal_level": "replica", "wal_keep_size": "64MB"}


def grant(dsn: str, name: str = "report") -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The session of the former one may take a moment to end.
        row = connection.execute(
            "SELECT token FROM pgsync.wait_lock(%s, '1 minute', 'me', '10 seconds')", [name]
        ).fetchone()
        assert row is not None
        token: int = row[0]
        return token


@pytest.mark.core
def test_tokens_of_a_name_rise_whoever_is_granted_it(sync: Coordinator, dsn: str) -> None:
    tokens: list[int] = []
    for _ in range(3):
        tokens.append(grant(dsn))
        with sync.lock("report", ttl=60, wait=10) as lock:
            tokens.append(lock.token)
        with sync.lock("report", ttl=60, shared=True) as lock:
            tokens.append(lock.token)
    assert tokens == sorted(set(tokens))


def test_tokens_rise_over_a_crash_of_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings={"fsync": "off"}) as server:
        migrate(server.dsn)
        tokens = [grant(server.dsn)]
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            # What a crash may forget: the sequence as it stands on disk lags behind.
            connection.execute("CHECKPOINT")
            lag = connection.execute("SELECT last_value FROM pgsync.lock_token").fetchone()
            tokens += [grant(server.dsn) for _ in range(40)]
            with pytest.raises(psycopg.OperationalError):
                # Its death by SIGKILL makes the server throw all sessions out and recover.
                connection.execute("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
        eventually(lambda: _has_recovered(server.dsn))
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            # The worst that can be: the log's tail is lost, and with it the last values.
            connection.execute("SELECT setval('pgsync.lock_token', %s)", lag)
        tokens.append(grant(server.dsn))
    assert tokens == sorted(set(tokens))
    assert tokens[-1] >> 44 == tokens[0] >> 44


def _has_recovered(dsn: str) -> bool:
    """Whether the crash is over: just after it the server still answers as if nothing was."""
    try:
        with psycopg.connect(dsn) as connection:
            bases = connection.execute("SELECT count(*) FROM pgsync.lock_token_base").fetchone()
            return bases == (0,)  # An unlogged table, which recovery empties.
    except psycopg.OperationalError:
        return False


def test_tokens_rise_over_a_failover_to_a_standby_that_lagged(tmp_path: Path) -> None:
    copy = tmp_path / "standby"
    copy.mkdir(mode=0o700)
    with EmbeddedServer(tmp_path / "primary", settings=_REPLICATED) as primary:
        migrate(primary.dsn)
        before = grant(primary.dsn)
        subprocess.run(
            [
                str(find_binaries().program("pg_basebackup")),
                *("--dbname", primary.dsn, "--pgdata", str(copy / "data")),
                *("--wal-method", "fetch", "--checkpoint", "fast", "--no-sync"),
            ],
            check=True,
            timeout=240,
        )
        # These the standby never hears of: it has no way to the primary.
        missed = [grant(primary.dsn) for _ in range(200)]
    (copy / "data" / "standby.signal").touch()
    _own_as_before(copy)
    with EmbeddedServer(copy, settings=_REPLICATED) as standby:
        with psycopg.connect(standby.dsn, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)
            assert connection.execute(
                "SELECT last_value < %s FROM pgsync.lock_token", [missed[-1] % (1 << 44)]
            ).fetchone() == (True,)
        after = grant(standby.dsn)
    assert before < missed[0] < missed[-1] < after
    assert (before >> 44, after >> 44) == (1, 2)


def _own_as_before(folder: Path) -> None:
    """The signal file belongs to whom the data belongs to."""
    owner = (folder / "data" / "PG_VERSION").stat()
    os.chown(folder / "data" / "standby.signal", owner.st_uid, owner.st_gid)


@pytest.mark.core
def test_a_fence_lets_no_stale_token_pass(face: Any, database: Any) -> None:
    face.fence("s3://bucket/report", 7)
    face.fence("s3://bucket/report", 7)
    face.fence("s3://bucket/report", 9)
    with pytest.raises(StaleToken, match="9 has passed"):
        face.fence("s3://bucket/report", 8)
    face.fence("another", 1)
    rows = database.execute("SELECT resource, token FROM pgsync.fence ORDER BY token").fetchall()
    assert rows == [("another", 1), ("s3://bucket/report", 9)]


@pytest.mark.core
def test_a_fence_within_a_transaction_undoes_a_stale_holders_write(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    database.execute("CREATE TABLE written (value integer)")
    sync.fence("report", 5)
    with psycopg.connect(dsn) as connection:
        with pytest.raises(StaleToken), connection.transaction():
            connection.execute("INSERT INTO written VALUES (4)")
            sync.fence("report", 4, within=connection)
        with connection.transaction():
            connection.execute("INSERT INTO written VALUES (6)")
            sync.fence("report", 6, within=connection)
        connection.rollback()
    assert database.execute("SELECT value FROM written").fetchall() == [(6,)]


@pytest.mark.core
def test_fences_that_nobody_passes_are_forgotten(sync: Coordinator, database: Any) -> None:
    sync.fence("old", 1)
    sync.fence("new", 2)
    database.execute(
        "UPDATE pgsync.fence SET passed_at = now() - interval '31 days' WHERE resource = 'old'"
    )
    assert database.execute("SELECT pgsync.prune_fences()").fetchone() == (1,)
    assert database.execute("SELECT resource FROM pgsync.fence").fetchall() == [("new",)]


@pytest.mark.core
def test_the_guard_works_on_sqlalchemys_connections_within_their_transactions(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    database.execute("CREATE TABLE guarded (value integer)")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with sync.lock("report", ttl=60) as lock:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO guarded VALUES (1)"))
            lock.guard(connection)
        with Session(engine) as session, session.begin():
            session.execute(text("INSERT INTO guarded VALUES (2)"))
            lock.guard(session)
        database.execute("UPDATE pgsync.lock_holder SET expires_at = now() - interval '1 s'")
        with pytest.raises(LockLost), Session(engine) as session, session.begin():
            session.execute(text("INSERT INTO guarded VALUES (3)"))
            lock.guard(session)
    engine.dispose()
    assert database.execute("SELECT value FROM guarded ORDER BY 1").fetchall() == [(1,), (2,)]


@pytest.mark.core
def test_the_guard_works_on_sqlalchemys_asyncio_sessions(dsn: str, database: Any) -> None:
    database.execute("CREATE TABLE guarded (value integer)")

    async def scenario() -> None:
        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=lambda: psycopg.AsyncConnection.connect(dsn),
        )
        async with AsyncCoordinator(dsn) as sync, sync.lock("report", ttl=60) as lock:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(text("INSERT INTO guarded VALUES (1)"))
                await lock.guard(session)
            await sync.force_release("report")
            with pytest.raises(LockLost):
                async with AsyncSession(engine) as session, session.begin():
                    await session.execute(text("INSERT INTO guarded VALUES (2)"))
                    await lock.guard(session)
        await engine.dispose()

    asyncio.run(scenario())
    assert database.execute("SELECT value FROM guarded").fetchall() == [(1,)]


@pytest.mark.core
def test_a_guard_proves_nothing_once_the_holders_session_has_ended(
    sync: Coordinator, database: Any
) -> None:
    with sync.lock("report", ttl=60) as lock:
        token = lock.token
        database.execute("SELECT pg_terminate_backend(pid, 5000) FROM pgsync.locks")
        with pytest.raises(psycopg.Error) as caught:
            database.execute("SELECT pgsync.assert_lock('report', %s)", [token])
        assert caught.value.sqlstate == "PS001"


@pytest.mark.core
def test_a_guard_holds_off_a_transactions_lock_too(
    sync: Coordinator, dsn: str, database: Any
) -> None:
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn) as other:
        with sync.lock("report", ttl=60) as lock:
            lock.guard(writer)
        with pytest.raises(LockHeld):
            sync.transaction_lock(other, "report").acquire()
        other.rollback()
        writer.commit()
        sync.transaction_lock(other, "report").acquire()


@pytest.mark.core
def test_a_guard_outside_a_transaction_is_refused(face: Any, dsn: str, database: Any) -> None:
    with face.lock("report", ttl=60) as lock:
        if isinstance(face, Coordinator):
            with pytest.raises(InvalidArgument, match="autocommit"):
                lock.guard(database)
            with pytest.raises(InvalidArgument, match="autocommit"):
                face.transaction_lock(database, "another").acquire()
            with database.transaction():
                lock.guard(database)


@pytest.mark.core
def test_a_guard_that_hangs_is_named_and_ended_after_its_grace(
    sync: Coordinator, dsn: str, database: Any
) -> None:
    with psycopg.connect(dsn) as hung:
        with sync.lock("report", ttl=60) as lock:
            lock.guard(hung)
        explained = sync.explain_lock("report")
        assert explained.state == "guarded"
        assert str(hung.info.backend_pid) in explained.freed_by
        with pytest.raises(LockHeld):
            sync.lock("report", ttl=60, wait=0.3).acquire()
        database.execute("SET pgsync.guard_grace = '200 milliseconds'")
        granted = database.execute(
            "SELECT acquired FROM pgsync.try_lock('report', '1 minute')"
        ).fetchone()
        assert granted == (True,)
        with pytest.raises(psycopg.OperationalError):
            hung.execute("SELECT 1")


@pytest.mark.core
def test_a_forced_release_ends_a_guard_that_hangs(sync: Coordinator, dsn: str) -> None:
    with psycopg.connect(dsn) as hung:
        with sync.lock("report", ttl=60) as lock:
            lock.guard(hung)
        assert sync.force_release("report")
        assert sync.explain_lock("report").state == "free"
        with sync.lock("report", ttl=60, wait=5):
            pass
        with pytest.raises(psycopg.OperationalError):
            hung.execute("SELECT 1")


@pytest.mark.core
def test_tokens_rise_where_the_cluster_was_made_anew(dsn: str, database: Any) -> None:
    before = grant(dsn)
    # Moved by dump and restore to a cluster whose timeline is the first, after five failovers.
    database.execute("UPDATE pgsync.lock_token_epoch SET epoch = 6, timeline = 6")
    database.execute("TRUNCATE pgsync.lock_token_base, pgsync.lock_holder")
    database.execute("SELECT setval('pgsync.lock_token', 1)")
    after = grant(dsn)
    assert (before >> 44, after >> 44) == (1, 7)


@pytest.mark.core
def test_a_clock_of_the_server_that_jumps_ahead_ends_locks_and_loses_nothing(
    sync: Coordinator, dsn: str, database: Any
) -> None:
    told: list[str] = []
    with sync.lock("report", ttl=60, on_lost=told.append) as lock:
        database.execute(
            "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz"
            " LANGUAGE sql VOLATILE RETURN clock_timestamp() + interval '1 hour'"
        )
        with psycopg.connect(dsn) as connection, pytest.raises(LockLost):
            lock.guard(connection)
        assert grant(dsn) > lock.token
        eventually(lambda: told)
