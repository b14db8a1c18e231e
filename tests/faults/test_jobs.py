"""Jobs under all kinds of faults at once; and the checker that would see it."""

from __future__ import annotations

import shutil

import pytest

from tests.faults.job_run import JobSettings, run

pytestmark = pytest.mark.faults


def test_no_acknowledged_job_is_lost_and_each_effect_happens_once_whatever_happens() -> None:
    report = run(JobSettings(seconds=10, seed="ci"))
    assert report.violations == [], f"see {report.folder}"
    assert {"kill a worker", "kill -9 a backend", "immediate shutdown"} <= set(report.faults)
    assert {"freeze a worker", "end a worker's session"} <= set(report.faults)
    assert {"reset a connection", "swallow the answer to a commit"} <= set(report.faults)
    assert report.figures["jobs completed"] > 300


def test_effects_beside_the_completion_happen_more_than_once() -> None:
    report = run(JobSettings(seconds=10, seed="ci", guarded=False))
    assert report.folder is not None
    shutil.rmtree(report.folder)
    assert any("effects happened more than once" in violation for violation in report.violations)
