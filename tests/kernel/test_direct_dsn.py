"""``direct_dsn``: where locks, daemons and migrations go when ``dsn`` leads through a pooler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from tests.eventually import eventually

pytestmark = pytest.mark.core


def _ways(database: psycopg.Connection[Any]) -> set[str]:
    rows = database.execute(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return {row[0] for row in rows}


def _named(dsn: str, name: str) -> str:
    return make_conninfo(dsn, application_name=name)


def test_a_lock_and_the_daemon_take_the_direct_way(
    dsn: str, database: psycopg.Connection[Any]
) -> None:
    with Coordinator(_named(dsn, "pooled"), _named(dsn, "direct")) as sync:
        with sync.lock("direct", ttl=30):
            assert _ways(database) == {"direct"}
            sync.start()
            eventually(
                lambda: database.execute("SELECT count(*) > 0 FROM pgsync.worker").fetchone()[0]  # type: ignore[index]
            )
        assert _ways(database) == {"direct"}
        sync.job(1)
        assert _ways(database) == {"direct", "pooled"}


def test_the_environment_names_the_direct_way(
    dsn: str, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSYNC_DIRECT_DSN", _named(dsn, "direct"))
    with Coordinator(_named(dsn, "pooled")) as sync, sync.lock("direct", ttl=30):
        assert _ways(database) == {"direct"}
    monkeypatch.delenv("PGSYNC_DSN", raising=False)
    with Coordinator() as sync, sync.lock("direct", ttl=30):
        assert _ways(database) == {"direct"}


def test_migrations_take_the_direct_way(empty_dsn: str) -> None:
    nowhere = make_conninfo(empty_dsn, host="/nonexistent")
    with Coordinator(nowhere, empty_dsn) as sync:
        assert sync.migrate()

    async def again() -> list[str]:
        async with AsyncCoordinator(nowhere, empty_dsn) as sync:
            return await sync.migrate()

    assert asyncio.run(again()) == []


def test_a_direct_dsn_to_another_database_is_refused(
    dsn: str, template: str, make_database: Callable[[str], str]
) -> None:
    with (
        Coordinator(dsn, make_database(template)) as sync,
        pytest.raises(InvalidArgument, match="direct_dsn leads to another database"),
        sync.lock("nowhere", ttl=30),
    ):
        pass
