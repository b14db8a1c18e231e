"""No call of the hot path scans a table, whatever the table looked like when its plan was made."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.by_hand import claim, complete, enqueue, fail

pytestmark = pytest.mark.core

_SCANS = """
SELECT relname, seq_scan FROM pg_stat_xact_user_tables
WHERE schemaname = 'pgsync' AND seq_scan > 0
  AND relname IN ('job_ready', 'job_scheduled', 'job_waiting', 'job_running', 'job_key',
                  'job_unique')
"""


def test_plans_made_while_tables_are_empty_do_not_scan_full_ones(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    for _ in range(7):  # after five a function keeps its plan
        jobs = [enqueue(session, key="k", key_limit=9, unique_key="u"), enqueue(session)]
        assert sorted(claim(session, worker)) == jobs
        complete(session, worker, (jobs[0], 1))
        fail(session, worker, jobs[1], 1, retry_in=0)
        again = claim(session, worker)
        complete(session, worker, (again[0], 2))
        session.execute("VACUUM ANALYZE")
    session.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[3000]),"
        " keys => array_fill('many'::text, ARRAY[3000]), key_limit => 30)"
    )
    session.execute("SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[3000]))")
    with session.transaction():
        before = dict(session.execute(_SCANS).fetchall())
        enqueue(session, unique_key="u")
        jobs = claim(session, worker, batch=1000)
        assert len(jobs) == 1000
        fail(session, worker, jobs[0], 1, retry_in=0)
        complete(session, worker, *((job, 1) for job in jobs[1:]))
        session.execute("SELECT pgsync.cancel_job(%s)", [jobs[0]])
        assert dict(session.execute(_SCANS).fetchall()) == before
