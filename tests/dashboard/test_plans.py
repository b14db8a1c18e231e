"""No page scans a big table: not the jobs, not the history, not the runs, not the audit trail."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, tuple_row
from starlette.requests import Request

from pgsync.dashboard.pages import PAGES, Page
from pgsync.dashboard.reading import MOST_COUNTED, Read

MANY = 30_000

_FILL = f"""
INSERT INTO pgsync.job_ready
    (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at)
SELECT n, 'mail', 'send', '{{}}', 0, 0, 5, now(), now() FROM generate_series(1, {MANY}) AS n;
INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at,
    run_at, state, finished_at)
SELECT {MANY} + n, 'mail', 'send', '{{}}', 0, 1, 5, now(), now(),
       CASE n % 100 WHEN 0 THEN 'discarded' ELSE 'completed' END, now()
FROM generate_series(1, {MANY}) AS n;
INSERT INTO pgsync.operation_run
    (operation, key, args, state, actor, requested_at, finished_at)
SELECT 'import', 'import:' || n % 100, '{{}}', 'completed', 'ada', now(), now()
FROM generate_series(1, {MANY}) AS n;
INSERT INTO pgsync.audit_entry (at, action, subject, actor, detail)
SELECT now(), 'lock.forced', 'x', 'ada', '{{}}' FROM generate_series(1, {MANY}) AS n;
"""
_SCHEDULE = "SELECT pgsync.add_schedule('nightly', 'report', '0 3 * * *')"
_READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint AS rows,
       coalesce(sum(seq_tup_read), 0)::bigint AS scanned
FROM pg_stat_xact_user_tables
WHERE schemaname = 'pgsync' AND relname ~ '^(job_|operation_|audit_)'
"""
# Path, query string and parameters of the path, of pages that need them.
_PLACES = {
    "confirm": ("action=retry&state=discarded", {}),
    "job": ("", {"id": MANY + 100}),
    "operation": ("", {"id": MANY}),
    "queue": ("name=mail", {}),
    "schedule": ("name=nightly", {}),
    "edit_schedule": ("name=nightly", {}),
    "new_job": ("like=7", {}),
    "edit_job": ("", {"id": 7}),
}


@pytest.fixture
def full(dsn: str) -> str:
    """A database with many jobs, waiting and ended, runs and audit entries."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _FILL.split(";\n"):
            connection.execute(statement)
        connection.execute(_SCHEDULE)
        connection.execute("VACUUM ANALYZE")
    return dsn


async def rows_read(dsn: str, page: Page, query: str, parameters: dict[str, Any]) -> Any:
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": page.path,
            "headers": [],
            "query_string": query.encode(),
            "path_params": parameters,
        }
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        counting = connection.cursor(row_factory=tuple_row)
        before = await (await counting.execute(_READ)).fetchone()
        await page.read(Read(connection.cursor(row_factory=dict_row)), request)
        after = await (await counting.execute(_READ)).fetchone()
    assert before
    assert after
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_reads_few_rows_whatever_there_is(full: str, page: Page) -> None:
    query, parameters = _PLACES.get(page.name, ("", {}))
    read, scanned = asyncio.run(rows_read(full, page, query, parameters))
    assert scanned < 100
    assert read <= (MOST_COUNTED + 200 if page.name in ("overview", "queues", "queue") else 1100)


@pytest.mark.parametrize(
    "query", ["state=discarded", "queue=none", "text=none", "arg=to%3Dada", "state=completed"]
)
def test_a_filtered_list_looks_at_the_newest_only(full: str, query: str) -> None:
    jobs = next(page for page in PAGES if page.name == "jobs")
    read, scanned = asyncio.run(rows_read(full, jobs, query, {}))
    assert scanned < 100
    assert read <= 3 * 10_000 + 1000
