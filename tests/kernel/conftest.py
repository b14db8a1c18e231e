"""What the kernel's tests share: a clock that a test sets, and workers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest


class Clock:
    """The time of the test's own database, which stands still between moves."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self._database = database
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        database.execute("CREATE TABLE test_time (now timestamptz)")
        database.execute("INSERT INTO test_time VALUES (%s)", [self.now])
        database.execute(
            "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz"
            " LANGUAGE sql VOLATILE RETURN (SELECT now FROM test_time)"
        )

    def move(self, seconds: float) -> datetime:
        """Let ``seconds`` pass, and return the new time."""
        return self.set(self.now + timedelta(seconds=seconds))

    def set(self, now: datetime) -> datetime:
        """Make it ``now``."""
        self.now = now
        self._database.execute("UPDATE test_time SET now = %s", [now])
        return now


@pytest.fixture
def clock(database: psycopg.Connection[Any]) -> Clock:
    """Time that the test sets."""
    return Clock(database)


@pytest.fixture
def new_worker(dsn: str) -> Iterator[Callable[..., Any]]:
    """Registers workers, each on a session of its own, for tests that claim by hand."""
    sessions: list[psycopg.Connection[Any]] = []

    def make(name: str = "by hand") -> tuple[psycopg.Connection[Any], int]:
        session = psycopg.connect(dsn, autocommit=True)
        sessions.append(session)
        row = session.execute(
            "SELECT pgsync.register_worker(%s, 'host', 1, '0', '{default}', 1)", [name]
        ).fetchone()
        assert row is not None
        return session, row[0]

    yield make
    for session in sessions:
        session.close()
