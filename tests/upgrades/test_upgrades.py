"""Each schema that was handed out is migrated while its clients go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, PgsyncError
from pgsync.database.migrations import migrate, migrations
from tests.eventually import eventually
from tests.kernel.test_migrations import SHAPE
from tests.upgrades.record import SCHEMAS, script_of
from tests.upgrades.traffic import Traffic

pytestmark = pytest.mark.core

_BLOCKED_BY = "SELECT count(*) FROM pgsync.rate_limit_counter"


@pytest.fixture
def connection(empty_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        yield connection


@contextmanager
def a_long_transaction(dsn: str) -> Iterator[None]:
    """An analyst who has read a table that a migration changes, and does not end."""
    with psycopg.connect(dsn, application_name="analyst") as analyst:
        analyst.execute(_BLOCKED_BY)
        yield


def shape(connection: psycopg.Connection[Any]) -> list[str]:
    """What the schema is, without the history's partitions, which are of the day."""
    rows = connection.execute(SHAPE).fetchall()
    return [row[0] for row in rows if "job_finished_2" not in row[0]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_migrated_under_live_traffic(
    schema: str,
    empty_dsn: str,
    connection: psycopg.Connection[Any],
    make_database: Callable[[str], str],
) -> None:
    connection.execute(script_of(schema).encode())
    traffic = Traffic(empty_dsn)
    with traffic.running():
        eventually(traffic.have_gone_on(20), within=60)
        applied = migrate(empty_dsn)
        eventually(traffic.have_gone_on(20), within=60)
        with Coordinator(empty_dsn) as new:
            with new.lock("another", ttl=60):
                pass
            eventually(traffic.have_gone_on(5), within=60)
    assert applied
    traffic.check(connection)
    made_now = make_database("template0")
    migrate(made_now)
    with psycopg.connect(made_now) as fresh:
        assert shape(connection) == shape(fresh)


@pytest.mark.timeout(300)
def test_a_migration_waits_its_turn_and_traffic_goes_on(
    empty_dsn: str, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    connection.execute(script_of(SCHEMAS[0]).encode())
    traffic = Traffic(empty_dsn)
    applied: list[str] = []
    migrating = threading.Thread(target=lambda: applied.extend(migrate(empty_dsn)))

    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "pgsync.migrate"]

    with traffic.running(), caplog.at_level(logging.WARNING):
        with a_long_transaction(empty_dsn):
            migrating.start()
            eventually(lambda: len(told()) >= 2, within=60)
            # It is in the middle of its tries, and nobody stands behind it for long.
            eventually(traffic.have_gone_on(20), within=60)
            eventually(lambda: len(told()) >= 3, within=60)
        migrating.join(120)
        eventually(traffic.have_gone_on(20), within=60)
    assert len(applied) == len(migrations("kernel")) - 6 + 1
    assert "(analyst), for 00:00:" in told()[0]
    assert "rate_limit_counter" in told()[0]
    traffic.check(connection)


def test_a_migration_that_finds_no_moment_says_so_and_leaves_nothing_half_done(
    empty_dsn: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(script_of(SCHEMAS[0]).encode())
    with (
        a_long_transaction(empty_dsn),
        pytest.raises(PgsyncError, match=r"was not applied: in 0 s .*\(analyst\)"),
    ):
        migrate(empty_dsn, patience=0)
    # What was free was changed; what was not is as it was, with the functions that fit it.
    columns = connection.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'pgsync.rate_limit_counter'::regclass"
        " AND attname = 'algorithm'"
    )
    assert columns.fetchone() == (0,)
    assert connection.execute(
        "SELECT h.allowed FROM pgsync.rate_limit_hit('graph', 1, '1 hour') AS h"
    ).fetchone() == (True,)
    assert migrate(empty_dsn)
