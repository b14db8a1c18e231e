"""Claims among a thousand queues, and the view of queues, look at no more than they need."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.core

_QUEUES = 300
_LOOKUPS = "SELECT pg_stat_get_xact_numscans('pgsync.job_ready_claim'::regclass)"
_READ = """
SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables
WHERE schemaname = 'pgsync' AND relname LIKE 'job_%'
"""


def _number(session: psycopg.Connection[Any], statement: Any) -> int:
    row = session.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def worker(new_worker: Any) -> tuple[psycopg.Connection[Any], int]:
    """A worker's session, with two jobs in each of many queues."""
    session, worker = new_worker()
    session.execute(
        "SELECT pgsync.add_jobs('t', ARRAY['{}', '{}']::jsonb[], 'queue' || to_char(n, 'FM000'))"
        " FROM generate_series(1, %s) AS n",
        [_QUEUES],
    )
    return session, worker


def _claim(worker: tuple[psycopg.Connection[Any], int], batch: int, queues: str) -> list[str]:
    session, number = worker
    rows = session.execute(
        "SELECT queue FROM pgsync.claim_jobs(%s, %s, %s)", [number, queues, batch]
    )
    return [row[0] for row in rows]


def test_a_claim_looks_up_the_queues_that_fill_it(
    worker: tuple[psycopg.Connection[Any], int],
) -> None:
    session = worker[0]
    with session.transaction():
        before = _number(session, _LOOKUPS)
        assert _claim(worker, 6, "{*}") == [f"queue00{n}" for n in (1, 1, 2, 2, 3, 3)]
        # The server reads a result ahead: ten rows, of up to three lookups, and the claims.
        assert _number(session, _LOOKUPS) - before < 60


def test_others_are_claimed_from_in_the_order_of_their_names(
    worker: tuple[psycopg.Connection[Any], int],
) -> None:
    session = worker[0]
    session.execute("SELECT pgsync.pause_queue('queue001', 'me')")
    session.execute("SELECT pgsync.limit_queue('queue003', max_running => 1)")
    last = f"queue{_QUEUES}"
    assert _claim(worker, 6, f"{{{last},*}}") == [
        last, last, "queue002", "queue002", "queue003", "queue004",
    ]  # fmt: skip
    assert _claim(worker, 2, f"{{*,{last}}}") == ["queue004", "queue005"]
    rest = _claim(worker, 1_000, "{*}")
    assert len(rest) == 2 * _QUEUES - 8 - 2 - 1
    assert rest == sorted(rest)


def test_the_view_of_queues_reads_each_job_once(
    worker: tuple[psycopg.Connection[Any], int],
) -> None:
    session = worker[0]
    session.execute("ANALYZE pgsync.job_ready")
    with session.transaction():
        before = _number(session, _READ)
        rows = session.execute("SELECT name, available FROM pgsync.queues").fetchall()
        read = _number(session, _READ)
        full = {(f"queue{number:03}", 2) for number in range(1, _QUEUES + 1)}
        assert set(rows) == full | {("default", 0)}  # which the worker serves
        assert read - before <= 2 * _QUEUES + 5
        one = "SELECT available, waiting FROM pgsync.queues WHERE name = 'queue007'"
        assert session.execute(one).fetchall() == [(2, 0)]
        assert _number(session, _READ) - read <= 10


def test_of_many_queues_those_are_given_floors_where_they_pay(
    worker: tuple[psycopg.Connection[Any], int], dsn: str
) -> None:
    session = worker[0]
    always = "SELECT pgsync.advance_floors(-1, 1)"
    floored = "SELECT count(*) FROM pgsync.queue_floor"
    with psycopg.connect(dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM pgsync.job_ready")
        session.execute(always)
        for number in range(1, 101):
            _claim(worker, 1, f"{{queue{number:03}}}")
        few = _number(session, floored)
        assert 20 <= few <= 22
        # Through one of the others go jobs whose rows nobody can remove.
        add = "SELECT pgsync.add_jobs('t', array_fill('{}'::jsonb, ARRAY[10]), 'queue090')"
        for _ in range(12):
            session.execute(add)
            _claim(worker, 10, "{queue090}")
        rows = session.execute("SELECT queue FROM pgsync.queue_floor").fetchall()
        assert ("queue090",) in rows
        assert len(rows) == few + 1
