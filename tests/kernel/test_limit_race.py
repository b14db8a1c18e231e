"""Two hits that both saw room for one: the upsert decides, not the look before it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually

pytestmark = pytest.mark.core

_ONE = "SELECT allowed FROM pgsync.rate_limit_hit('mail', 2, '1 minute')"
_TWO = (
    "SELECT allowed FROM pgsync.rate_limit_hit("
    "'mail', ARRAY[2, 100], ARRAY['1 minute', '1 hour']::interval[])"
)


@pytest.mark.parametrize("hit", [_ONE, _TWO], ids=["one limit", "two limits"])
def test_the_last_permit_goes_to_one_of_two(database: Any, dsn: str, hit: str) -> None:
    assert database.execute(hit).fetchone() == (True,)

    def ask() -> bool:
        with psycopg.connect(dsn, autocommit=True, application_name="the race") as connection:
            row = connection.execute(hit).fetchone()
            assert row is not None
            return bool(row[0])

    with ThreadPoolExecutor(2) as pool:
        with psycopg.connect(dsn) as holder:
            # Both look, see one permit left, and meet at the row.
            holder.execute("SELECT FROM pgsync.rate_limit_counter FOR UPDATE")
            answers = [pool.submit(ask) for _ in range(2)]
            eventually(
                lambda: database.execute(
                    "SELECT count(*) = 2 FROM pg_stat_activity"
                    " WHERE application_name = 'the race' AND wait_event_type = 'Lock'"
                ).fetchone()[0]
            )
        assert sorted(answer.result(30) for answer in answers) == [False, True]
