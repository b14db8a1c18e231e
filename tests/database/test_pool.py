"""The pool after an outage: nobody waits for longer than the server is away."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.eventually import eventually


@pytest.fixture
def admin(server_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the server that goes on when nobody may connect to the test's database."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        yield connection


def end_sessions(admin: psycopg.Connection[Any], dsn: str) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    # Until its process is gone a session that is seen no more has not hung up.
    end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s"
    eventually(lambda: admin.execute(end, [name]).fetchall() == [])


def let_in(admin: psycopg.Connection[Any], dsn: str, *, anybody: bool) -> None:
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    allowed = sql.SQL("true" if anybody else "false")
    admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, allowed))


def test_many_connections_that_ended_cost_the_next_call_nothing(
    face: Any, dsn: str, database: psycopg.Connection[Any], admin: psycopg.Connection[Any]
) -> None:
    # psycopg's own check sleeps 1, 2, 4, ... seconds from one that has ended to the next.
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE relation = 'pgsync.queue'::regclass AND NOT granted"
    )
    with ThreadPoolExecutor(10) as threads:
        with database.transaction():
            database.execute("LOCK TABLE pgsync.queue IN ACCESS EXCLUSIVE MODE")
            calls = [threads.submit(face.pause_queue, f"of {n}") for n in range(10)]
            eventually(lambda: database.execute(waiting).fetchone() == (10,), within=60)
        assert all(call.result(60) for call in calls)
    end_sessions(admin, dsn)
    assert face.job(1) is None


def test_a_call_that_waits_for_the_server_is_served_once_it_is_back(
    face: Any,
    dsn: str,
    admin: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgsync.database.pool._POOL_TIMEOUT", 120.0)

    def tries() -> int:
        return sum("error connecting" in record.getMessage() for record in caplog.records)

    assert face.job(1) is None
    let_in(admin, dsn, anybody=False)
    end_sessions(admin, dsn)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(face.job, 1)
        # With pauses that double there are twelve tries in a minute.
        eventually(lambda: tries() >= 14, within=60)
        let_in(admin, dsn, anybody=True)
        assert waiting.result(120) is None
