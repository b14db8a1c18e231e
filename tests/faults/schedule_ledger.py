"""Counts in SQL whether every due time of the harness's schedules was enqueued, and once only."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import psycopg

from pgsync.database.drive import drive
from pgsync.database.pool import execute
from pgsync.schedules import fire_due_plan
from tests.faults.witness import Outage, lags_while_up

__all__ = ["check_schedules"]

_COUNT = """
WITH ours AS (
    SELECT s.* FROM pgsync.schedule AS s WHERE s.name LIKE 'every-second-%'
), fired AS (
    SELECT f.* FROM pgsync.schedule_fire AS f JOIN ours AS s ON s.name = f.schedule
), expected AS (
    SELECT s.name, f.fire_time
    FROM ours AS s
    CROSS JOIN LATERAL (SELECT min(e.fire_time) AS first FROM fired AS e
                        WHERE e.schedule = s.name) AS b
    CROSS JOIN LATERAL generate_series(b.first, s.next_fire_at - interval '1 second', '1 second')
        AS f (fire_time)
), jobs AS (
    SELECT j.task, j.id FROM pgsync.all_jobs AS j WHERE j.task LIKE 'every-second-%'
)
SELECT
    (SELECT count(*) FROM expected) AS due,
    (SELECT count(*) FROM fired) AS fires,
    (SELECT count(*) FROM jobs) AS jobs,
    (SELECT count(DISTINCT j.id) FROM jobs AS j
     JOIN fired AS f ON f.job_id = j.id AND f.schedule = j.task) AS jobs_of_fires,
    (SELECT count(*) FROM expected AS e WHERE NOT EXISTS (
        SELECT FROM fired AS f
        WHERE f.schedule = e.name AND f.fire_time = e.fire_time)) AS missing,
    (SELECT count(*) FROM ours AS s
     WHERE s.next_fire_at <= pgsync.clock() OR s.next_fire_at IS NULL) AS behind,
    (SELECT count(*) FROM ours AS s WHERE (
        SELECT min(f.fire_time) FROM fired AS f WHERE f.schedule = s.name)
        > s.created_at + interval '1 second') AS begun_late
"""


def check_schedules(
    dsn: str, outages: list[Outage] | None = None
) -> tuple[list[str], dict[str, object]]:
    """What is wrong with the fires of all schedules of the harness, in sentences, and figures.

    The daemons must have ended. What came due since is fired first; then the database's clock
    stands still for good. ``outages`` are what a witness saw of the server meanwhile.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Before what the daemons left is made up for.
        fires = connection.execute(
            "SELECT f.fire_time, f.fired_at FROM pgsync.schedule_fires AS f"
            " WHERE f.schedule LIKE 'every-second-%'"
        ).fetchall()
        until = time.monotonic() + 60
        fire = partial(execute, connection)
        while drive(fire_due_plan(), fire)[0] and time.monotonic() < until:
            pass  # what came due while the daemons stopped, and meanwhile
        # Its clock stands still, so that nothing comes due while it is counted.
        connection.execute(
            "CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz LANGUAGE sql"
            " VOLATILE RETURN (SELECT max(fire_time) FROM pgsync.schedule_fire)"
        )
        while drive(fire_due_plan(), fire)[0]:
            pass
        names = ("due", "fires", "jobs", "jobs_of_fires", "missing", "behind", "begun_late")
        row = connection.execute(_COUNT.encode()).fetchone()
    assert row is not None
    count: dict[str, Any] = dict(zip(names, row, strict=True))
    violations = [
        text
        for wrong, text in (
            (count["missing"], f"{count['missing']} due times were not enqueued"),
            (count["fires"] != count["due"], "there are fires at other times than due ones"),
            (count["jobs"] != count["fires"], "there are more or fewer jobs than fires"),
            (count["jobs_of_fires"] != count["fires"], "fires share a job, or have another's"),
            (count["behind"], f"{count['behind']} schedules are behind or have ended"),
            (count["begun_late"], f"{count['begun_late']} schedules began late"),
        )
        if wrong
    ]
    return violations, {
        "due times": count["due"],
        "fires": count["fires"],
        "jobs": count["jobs"],
        "lag of a fire, s (half, 99 of 100, all)": _shares(lags_while_up(fires, [])),
        "the same, while the server was up": _shares(lags_while_up(fires, outages or [])),
    }


def _shares(lags: list[float]) -> str:
    ranks = sorted(lags) or [0.0]
    return ", ".join(f"{ranks[int(share * (len(ranks) - 1))]:.2f}" for share in (0.5, 0.99, 1))
