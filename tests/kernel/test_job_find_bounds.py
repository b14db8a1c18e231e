"""A search of jobs is bounded, says how far it looked, and pages without a gap."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.core

_READ = """
SELECT coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
FROM pg_stat_xact_user_tables WHERE schemaname = 'pgsync' AND relname LIKE 'job\\_%'
"""


def add(database: Any, count: int = 1, task: str = "work", **args: Any) -> list[int]:
    rows = database.execute(
        "SELECT pgsync.enqueue(%s, %s::jsonb) FROM generate_series(1, %s)",
        [task, json.dumps(args), count],
    )
    return [row[0] for row in rows.fetchall()]


def find(
    database: Any, before: int | None = None, most: int = 50, look: int = 10000, **wanted: Any
) -> tuple[list[int], int | None, bool]:
    return database.execute(
        "SELECT f.ids, f.next_before, f.looked_at_all"
        " FROM pgsync.find_jobs(%s::jsonb, %s, %s, %s) AS f",
        [json.dumps(wanted), before, most, look],
    ).fetchone()


def history(database: Any, completed: int, discarded: int) -> None:
    """Discarded jobs, and after them so many that completed."""
    for first, count, state in ((1, discarded, "discarded"), (1001, completed, "completed")):
        database.execute(
            "INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt,"
            " max_attempts, created_at, run_at, state, finished_at)"
            " SELECT n, 'default', 'work', '{}', 0, 1, 1, now(), now(), %s, now()"
            " FROM generate_series(%s::bigint, %s::bigint) AS n",
            [state, first, first + count - 1],
        )


def test_a_rare_match_far_back_is_told_apart_from_none(database: Any) -> None:
    rare = add(database, task="rare")[0]
    add(database, 30)
    ids, before, looked_at_all = find(database, look=10, task="rare")
    assert ids == []
    assert not looked_at_all
    for _ in range(3):
        ids, before, looked_at_all = find(database, before, look=10, task="rare")
    assert (ids, before, looked_at_all) == ([rare], None, True)


def test_a_search_reads_no_more_than_it_says(database: Any) -> None:
    add(database, 3000)
    history(database, completed=3000, discarded=20)
    database.execute("VACUUM ANALYZE")
    for wanted, most_read in (
        ({}, 7 * 51),
        ({"states": ["discarded"]}, 51),
        ({"task": "none"}, 7 * 100),
        ({"states": ["discarded"], "args": {"to": "x"}}, 100),
    ):
        with database.transaction():
            before = database.execute(_READ).fetchone()
            find(database, look=100, **wanted)
            after = database.execute(_READ).fetchone()
        assert after[0] == before[0], wanted
        assert after[1] - before[1] <= most_read, wanted
