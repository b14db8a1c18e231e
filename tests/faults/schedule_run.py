"""One run of the schedules' fault harness: daemons, a storm, a restart of the server, the count."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg

from pgsync.database.drive import drive
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.database.pool import execute
from pgsync.schedules import fire_due_plan
from tests.eventually import eventually
from tests.faults.crew import Crew
from tests.faults.lock_run import Report, new_folder
from tests.faults.schedule_daemon import ScheduleOrders
from tests.faults.storm import Fault, Storm, plan

__all__ = ["ScheduleSettings", "run"]

_FAULTS = {
    "kill a daemon": 5,
    "freeze a daemon": 1,
    "end a scheduler's session": 2,
    "end any session": 1,
}
_CALM = 3.0  # times the pauses of other storms: a daemon takes a second or two to start

_COUNT = """
WITH expected AS (
    SELECT s.name, f.fire_time
    FROM pgsync.schedule AS s
    CROSS JOIN LATERAL (SELECT min(e.fire_time) AS first FROM pgsync.schedule_fire AS e
                        WHERE e.schedule = s.name) AS b
    CROSS JOIN LATERAL generate_series(b.first, s.next_fire_at - interval '1 second', '1 second')
        AS f (fire_time)
), jobs AS (
    SELECT j.task, j.id FROM pgsync.all_jobs AS j
)
SELECT
    (SELECT count(*) FROM expected) AS due,
    (SELECT count(*) FROM pgsync.schedule_fire) AS fires,
    (SELECT count(*) FROM jobs) AS jobs,
    (SELECT count(DISTINCT j.id) FROM jobs AS j
     JOIN pgsync.schedule_fire AS f ON f.job_id = j.id AND f.schedule = j.task) AS jobs_of_fires,
    (SELECT count(*) FROM expected AS e WHERE NOT EXISTS (
        SELECT FROM pgsync.schedule_fire AS f
        WHERE f.schedule = e.name AND f.fire_time = e.fire_time)) AS missing,
    (SELECT count(*) FROM pgsync.schedule AS s
     WHERE s.next_fire_at <= pgsync.clock() OR s.next_fire_at IS NULL) AS behind,
    (SELECT count(*) FROM pgsync.schedule AS s WHERE (
        SELECT min(f.fire_time) FROM pgsync.schedule_fire AS f WHERE f.schedule = s.name)
        > s.created_at + interval '1 second') AS begun_late
"""


@dataclass(frozen=True)
class ScheduleSettings:
    """``seconds`` is how long the storm lasts; the server is restarted in its middle."""

    seconds: float
    seed: str
    daemons: int = 5
    schedules: int = 200


class ScheduleStorm(Storm):
    """A storm among daemons."""

    def __init__(self, server: EmbeddedServer, crew: Crew, faults: Iterator[Fault]) -> None:
        super().__init__(server, crew, faults)
        self.acts |= {
            "kill a daemon": lambda fault: self.kill(self.any_place(fault)),
            "freeze a daemon": lambda fault: self.freeze(self.any_place(fault), fault),
            "end a scheduler's session": lambda fault: self.end("pgsync scheduler", fault),
            "end any session": lambda fault: self.end("%", fault),
        }

    def restart_server(self) -> None:
        """Shut it down without mercy, once."""
        fault = Fault("immediate shutdown", 0.0, 0.0, 0.0)
        if self.acts[fault.kind](fault):
            self.done[fault.kind] += 1


def run(settings: ScheduleSettings) -> Report:
    """Fire under faults, make up for what came due at the end, and count."""
    folder = new_folder()
    with EmbeddedServer(folder / "server") as server:  # durable
        migrate(server.dsn)
        orders = ScheduleOrders(server.dsn, "", "", settings.seed, settings.schedules)
        crew = Crew("tests.faults.schedule_daemon", orders, folder, settings.daemons)
        faults = (
            replace(fault, pause=fault.pause * _CALM) for fault in plan(settings.seed, 1.0, _FAULTS)
        )
        storm = ScheduleStorm(server, crew, faults)
        report = Report(faults=storm.done)
        try:
            for place in range(crew.count):
                crew.start(place)
            eventually(lambda: _fires(server.dsn) > settings.schedules, within=60)
            storm.blow(settings.seconds / 2)
            storm.restart_server()
            storm.blow(settings.seconds / 2)
        except AssertionError as error:
            report.violations.append(f"it did not come so far: {error!r}")
        finally:
            crew.stop(within=30)
        report.violations += [f"a process died: {death}" for death in crew.died]
        _judge(report, server.dsn, settings)
    shutil.rmtree(folder / "server", ignore_errors=True)
    if report.violations:
        report.folder = folder
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _fires(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pgsync.schedule_fire").fetchone()
    assert row is not None
    count: int = row[0]
    return count


def _judge(report: Report, dsn: str, settings: ScheduleSettings) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
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
        lags = connection.execute(
            "SELECT percentile_cont(ARRAY[0.5, 0.99, 1])"
            " WITHIN GROUP (ORDER BY extract(epoch FROM f.lag))"
            " FROM pgsync.schedule_fires AS f"
        ).fetchone()
    assert row is not None
    assert lags is not None
    count: dict[str, Any] = dict(zip(names, row, strict=True))
    report.violations += [
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
    report.figures = {
        "due times": count["due"],
        "fires": count["fires"],
        "jobs": count["jobs"],
        "schedules": settings.schedules,
        "daemons": settings.daemons,
        "lag of a fire, s (half, 99 of 100, all)": ", ".join(f"{lag:.2f}" for lag in lags[0]),
    }
