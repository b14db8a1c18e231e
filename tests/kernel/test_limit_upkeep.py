"""The clean-up of limits, and that a million keys cost what one does."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, Limit, SlidingWindow, TokenBucket
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

_PRUNE = "SELECT pgsync.prune_rate_limits()"


def test_all_that_has_ended_is_removed_in_batches(
    sync: Coordinator, database: psycopg.Connection[Any], clock: Clock
) -> None:
    limits = (Limit(9, per=10), SlidingWindow(9, per=20), TokenBucket(9, per=30))
    limiter = sync.limiter("graph", *limits, remember=0)
    for key in "abc":
        limiter.hit(key)
    limiter.penalize("a", 5)
    limiter.reserve("b", 3, ttl=9)
    for _ in range(2):
        database.execute("SELECT pgsync.rate_limit_acquire('w', '{1}', '{10 s}', 1, '1 h')")
    clock.move(60)
    assert database.execute(_PRUNE).fetchone() == (0,), "a minute's grace"
    clock.move(120)
    batches = [database.execute("SELECT pgsync.prune_rate_limits(4)").fetchone() for _ in range(4)]
    # Ten counters, a penalty, a reservation and a waiter.
    assert batches == [(7,), (4,), (2,), (0,)]


def test_the_clean_up_passes_over_rows_in_use(
    sync: Coordinator, database: psycopg.Connection[Any], dsn: str, clock: Clock
) -> None:
    limiter = sync.limiter("graph", Limit(9, per=10), remember=0)
    for key in "ab":
        limiter.hit(key)
    clock.move(120)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM pgsync.rate_limit_counter WHERE key = 'graph:a' FOR UPDATE")
        assert database.execute(_PRUNE).fetchone() == (1,)
    assert limiter.hit("a").remaining == 8


def test_past_waiters_are_kept_while_a_later_one_may_cancel(
    database: psycopg.Connection[Any], clock: Clock
) -> None:
    acquire = "SELECT waiter FROM pgsync.rate_limit_acquire('w', '{1}', '{1 h}', 1, '9 h')"
    waiters = [database.execute(acquire).fetchone() for _ in range(4)]
    clock.move(2.5 * 3600)
    assert database.execute(_PRUNE).fetchone() == (0,)
    cancel = "SELECT pgsync.rate_limit_cancel_wait(%s)"
    assert database.execute(cancel, waiters[-1]).fetchone() == (True,)
    # The two that were served count still: the third window is that of the second waiter.
    hit = "SELECT allowed, retry_after FROM pgsync.rate_limit_hit('w', 1, '1 h')"
    row = database.execute(hit).fetchone()
    assert row is not None
    assert (row[0], row[1].total_seconds()) == (False, 1800)


@pytest.mark.parametrize("algorithm", ["fixed", "sliding", "bucket"])
def test_no_statement_of_a_decision_scans_a_table(
    database: psycopg.Connection[Any], algorithm: str
) -> None:
    database.execute(
        "INSERT INTO pgsync.rate_limit_counter"
        " (key, per, algorithm, hits, max_hits, burst, window_started_at, tat, resets_at)"
        " SELECT 'k' || n, '1 h', %s, 1, 9, 9, now(), now(), now() + interval '1 h'"
        " FROM generate_series(1, 5000) AS n",
        [algorithm],
    )
    for table in ("penalty", "override"):
        database.execute(f"TRUNCATE pgsync.rate_limit_{table}")
    database.execute("ANALYZE")
    database.execute("LOAD 'auto_explain'")
    for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_format = json"):
        database.execute(f"SET auto_explain.{setting}")
    plans: list[str] = []
    database.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    database.execute("SET client_min_messages = log")
    arguments = {"max": [5, 9], "per": ["1 h", "2 h"], "algorithm": [algorithm, algorithm]}
    one = {name: values[:1] for name, values in arguments.items()}
    for limits in (one, arguments):
        for _ in range(3):
            database.execute(
                "SELECT pgsync.rate_limit_take('k7', %(max)s, %(per)s::interval[], 2, 1,"
                " %(algorithm)s)",
                limits,
            )
        database.execute(
            "SELECT pgsync.rate_limit_acquire('k7', %(max)s, %(per)s::interval[], 1, '9 h',"
            " %(algorithm)s)",
            limits,
        )
    database.execute("SELECT pgsync.rate_limit_peek('k7', '{5}', '{1 h}')")
    database.execute(_PRUNE)
    scans = [plan for plan in plans if '"Seq Scan"' in plan and '"rate_limit_' in plan]
    assert scans == []
    seen = set(re.findall(r'"Relation Name": "(\w+)"', "".join(plans)))
    assert {"rate_limit_counter", "rate_limit_penalty", "rate_limit_override"} <= seen
