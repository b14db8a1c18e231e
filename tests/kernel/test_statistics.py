"""What ended is counted once each, by minute and hour, and the queues' depth is noted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from tests.threads import at_once

pytestmark = pytest.mark.core

COUNT = "SELECT pgsync.count_throughput()"
TOTAL = "SELECT coalesce(sum(jobs), 0)::bigint FROM pgsync.{}"

_END = """
INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
    created_at, run_at, state, started_at, finished_at)
SELECT nextval('pgsync.job_id'), %(queue)s, 'work', '{}', 0, 1, 1, %(at)s,
       %(at)s - interval '3 s', %(state)s, %(at)s - interval '1 s', %(at)s
FROM generate_series(1, %(jobs)s)
"""


def ask(database: psycopg.Connection[Any], query: str) -> Any:
    row = database.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def end(
    database: psycopg.Connection[Any],
    jobs: int = 1,
    state: str = "completed",
    queue: str = "default",
    ago: str = "15 s",
) -> None:
    at = ask(database, f"SELECT pgsync.clock() - interval '{ago}'")
    database.execute(_END, {"jobs": jobs, "state": state, "queue": queue, "at": at})


@pytest.fixture(autouse=True)
def counted_from_some_time_ago(database: psycopg.Connection[Any]) -> None:
    database.execute("UPDATE pgsync.throughput_mark SET counted_until = now() - interval '50 min'")


def test_what_ended_is_counted_once_by_minute_and_hour(database: Any) -> None:
    end(database, 5)
    end(database, 2, state="discarded", queue="mail")
    assert ask(database, COUNT) == 7
    end(database, 1, ago="0 s")  # Too new: somebody may yet write one that ended before it.
    assert ask(database, COUNT) == 0
    for view in ("throughput", "throughput_hourly"):
        rows = database.execute(
            f"SELECT queue, outcome, sum(jobs), min(mean_wait)::text, max(longest_run)::text"
            f" FROM pgsync.{view} GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
        assert rows == [
            ("default", "completed", 5, "00:00:02", "00:00:01"),
            ("mail", "discarded", 2, "00:00:02", "00:00:01"),
        ]
    figures = database.execute(
        "SELECT jobs_past_hour, discarded_past_hour, discarded_past_week, busiest_queue"
        " FROM pgsync.figures"
    ).fetchone()
    assert figures == (7, 2, 2, "default")


DURATIONS = """
SELECT m.metric, m.labels ->> 'le', m.value::int FROM pgsync.metrics AS m
WHERE m.metric ~ '^pgsync_job_(wait|run)_seconds_(bucket|count|sum)$'
  AND m.labels ->> 'queue' = 'default'
"""


def test_durations_are_counted_in_buckets_that_hold_their_bounds(database: Any) -> None:
    end(database, 5)  # Each waited for 2 s, and ran for 1 s.
    end(database, 2, state="discarded")
    database.execute(
        "UPDATE pgsync.job_finished SET started_at = NULL WHERE state = 'discarded'"
    )  # They never began.
    assert ask(database, COUNT) == 7
    found = {(metric, le): jobs for metric, le, jobs in database.execute(DURATIONS).fetchall()}
    bounds = ["0.01", "0.05", "0.1", "0.5", "1", "5", "15", "60", "300", "1800", "7200", "+Inf"]
    wait, run = "pgsync_job_wait_seconds", "pgsync_job_run_seconds"
    assert [found.pop((f"{wait}_bucket", each)) for each in bounds] == [0] * 5 + [5] * 7
    assert [found.pop((f"{run}_bucket", each)) for each in bounds] == [0] * 4 + [5] * 8
    assert found == {
        (f"{wait}_count", None): 5,
        (f"{wait}_sum", None): 10,
        (f"{run}_count", None): 5,
        (f"{run}_sum", None): 5,
    }


def test_a_duration_is_in_the_first_bucket_whose_bound_it_does_not_pass(database: Any) -> None:
    bounds = ask(database, "SELECT pgsync.duration_bounds()")
    assert bounds == sorted(bounds)
    for bound, following in pairwise(bounds):
        for seconds, bucket in ((bound, bound), (bound + 1e-6, following)):
            found = database.execute(
                "SELECT pgsync.duration_bucket(make_interval(secs => %s))", [seconds]
            ).fetchone()
            assert found == (bucket,)
    assert ask(database, "SELECT pgsync.duration_bucket('-1 s')") == bounds[0]
    assert ask(database, "SELECT pgsync.duration_bucket('30 days')") == float("inf")
    assert ask(database, "SELECT pgsync.duration_bucket(NULL)") is None


def test_what_an_open_transaction_ends_is_counted_when_it_has_committed(
    dsn: str, database: Any
) -> None:
    # This database's clock is a minute ahead, so that what ends now has ended long enough ago.
    database.execute(
        "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " RETURN clock_timestamp() + interval '1 minute'"
    )
    end(database, 3, ago="70 s")
    with psycopg.connect(dsn) as slow:
        at = ask(slow, "SELECT clock_timestamp()")
        slow.execute(_END, {"jobs": 4, "state": "completed", "queue": "default", "at": at})
        end(database, 2, ago="60 s")  # After those, and seen before them.
        assert ask(database, COUNT) == 3
        began = f"SELECT xact_start FROM pg_stat_activity WHERE pid = {slow.info.backend_pid}"
        until = "SELECT counted_until FROM pgsync.throughput_mark"
        assert ask(database, until) == ask(database, began)
        slow.commit()
    assert ask(database, COUNT) == 6
    assert ask(database, COUNT) == 0


def test_many_count_at_once_and_none_twice(dsn: str, database: Any) -> None:
    end(database, 1000)
    counted: list[int] = []

    def count() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            counted.append(ask(connection, COUNT))

    at_once([count] * 5)
    assert sorted(counted) == [0, 0, 0, 0, 1000]
    assert ask(database, TOTAL.format("throughput")) == 1000


def test_a_long_pause_is_caught_up_with_in_steps(database: Any) -> None:
    database.execute("UPDATE pgsync.throughput_mark SET counted_until = now() - interval '5 hours'")
    for hours in (4.5, 3.5, 0.5):
        end(database, 1, ago=f"{hours} hours")
    assert [ask(database, COUNT) for _ in range(6)] == [1, 1, 0, 0, 1, 0]


def test_a_day_of_history_is_not_read_to_count_a_minute(database: Any) -> None:
    end(database, 40_000, ago="5 minutes")
    end(database, 10)
    assert ask(database, "SELECT pgsync.summarize_history(now())") > 0
    assert ask(database, "SELECT pgsync.summarize_history(now())") == 0
    database.execute("SET enable_seqscan = off")
    plan = database.execute(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM pgsync.job_finished AS f"
        " WHERE f.finished_at >= now() - interval '1 minute' AND f.finished_at < now()"
    ).fetchone()[0][0]
    read = sum(_recheck(plan["Plan"]))
    assert 0 <= read < 20_000


def _recheck(node: dict[str, Any]) -> list[int]:
    rows = [node.get("Rows Removed by Index Recheck", 0) * node.get("Actual Loops", 1)]
    return rows + [count for child in node.get("Plans", []) for count in _recheck(child)]


def test_the_depth_of_queues_is_noted(database: Any, new_worker: Callable[..., Any]) -> None:
    session, worker = new_worker()
    for queue, priority in (("default", 0), ("default", 5), ("mail", 0)):
        database.execute(
            "SELECT pgsync.add_jobs('t', array_fill('{}'::jsonb, ARRAY[4]), %s, %s)",
            [queue, priority],
        )
    database.execute("SELECT pgsync.enqueue('t', queue => 'mail', delay => '1 hour')")
    session.execute("SELECT count(*) FROM pgsync.claim_jobs(%s, '{mail}', 1)", [worker])
    assert ask(database, "SELECT pgsync.snapshot_queues(7)") == 2
    depth = (
        "SELECT queue, available, scheduled, running, oldest_ready < '1 min' FROM pgsync.workload"
    )
    assert database.execute(depth + " ORDER BY 1").fetchall() == [
        ("default", 7, 0, 0, True),  # counted to 7
        ("mail", 3, 1, 1, True),
    ]
    database.execute("TRUNCATE pgsync.job_ready, pgsync.job_scheduled, pgsync.job_running")
    assert ask(database, "SELECT pgsync.snapshot_queues()") == 2  # empty now, and said once
    assert ask(database, "SELECT pgsync.snapshot_queues()") == 0


def test_statistics_are_forgotten(database: Any) -> None:
    end(database, 5)
    ask(database, COUNT)
    database.execute("SELECT pgsync.enqueue('t')")
    ask(database, "SELECT pgsync.snapshot_queues()")
    assert ask(database, "SELECT pgsync.prune_statistics()") == 0
    assert ask(database, "SELECT pgsync.prune_statistics('-1 h', '-2 h', '-1 h')") == 6
