"""Second-grained schedules under kills, freezes, a restart: each due time once and once only."""

from __future__ import annotations

import pytest

from tests.faults.schedule_run import ScheduleSettings, run

pytestmark = pytest.mark.faults


def test_every_due_time_is_enqueued_once_whatever_happens_to_the_daemons() -> None:
    report = run(ScheduleSettings(seconds=5, seed="ci", daemons=3, schedules=50))
    assert report.violations == [], f"see {report.folder}"
    assert {"kill a daemon", "immediate shutdown"} <= set(report.faults)
    due = report.figures["due times"]
    assert isinstance(due, int)
    assert due > 50 * 5
