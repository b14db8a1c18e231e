"""Everything at once: all kinds of users on a pair of servers, under faults of many kinds."""

from __future__ import annotations

import pytest

from tests.faults.everything_run import EverythingSettings, run

pytestmark = pytest.mark.faults

# Quick ones; the command has those too that make a new server each time.
_KINDS = (
    "kill a process",
    "freeze a process",
    "start with a wrong clock",
    "end any session",
    "kill -9 a backend",
    "promote over a living primary",
    "reset a connection",
    "stall a connection",
    "half-open a connection",
    "swallow an answer",
    "swallow the answer to a commit",
    "cut all connections",
    "use up the connections",
    "use up the locks",
)


@pytest.mark.timeout(900)
def test_no_promise_is_broken_whatever_happens_to_the_whole() -> None:
    settings = EverythingSettings(
        seconds=5,
        seed="ci",
        kinds=_KINDS,
        calm=1.0,
        jobbers=1,
        daemons=1,
        importers=1,
        schedules=5,
        rows=300,
    )
    report = run(settings)
    assert report.violations == [], f"see {report.folder}"
    assert {"kill a process", "start with a wrong clock"} <= set(report.faults)
    assert {"promote over a living primary", "cut all connections"} <= set(report.faults)
