"""One run of the schedules' fault harness: daemons, a storm, a restart of the server, the count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults.crew import Crew
from tests.faults.report import Report, run_folder
from tests.faults.schedule_daemon import ScheduleOrders
from tests.faults.schedule_ledger import check_schedules
from tests.faults.storm import Fault, Storm, plan

__all__ = ["ScheduleSettings", "run"]

_FAULTS = {
    "kill a daemon": 5,
    "freeze a daemon": 1,
    "end a scheduler's session": 2,
    "end any session": 1,
}
_CALM = 3.0  # times the pauses of other storms: a daemon takes a second or two to start


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
    report = Report()
    # Its server is durable.
    with run_folder(report) as folder, EmbeddedServer(folder / "server") as server:
        migrate(server.dsn)
        orders = ScheduleOrders(dsn=server.dsn, seed=settings.seed, schedules=settings.schedules)
        crew = Crew("tests.faults.schedule_daemon", orders, folder, settings.daemons)
        faults = (
            replace(fault, pause=fault.pause * _CALM) for fault in plan(settings.seed, 1.0, _FAULTS)
        )
        storm = ScheduleStorm(server, crew, faults)
        report.faults = storm.done
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
        violations, report.figures = check_schedules(server.dsn)
        report.violations += violations
    report.figures |= {"schedules": settings.schedules, "daemons": settings.daemons}
    return report


def _fires(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pgsync.schedule_fire").fetchone()
    assert row is not None
    count: int = row[0]
    return count
