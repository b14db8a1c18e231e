"""A campaign under kills, throttling, errors and a restart: nobody is sent to twice."""

from __future__ import annotations

import pytest

from tests.faults.campaign_ledger import CampaignSettings
from tests.faults.campaign_run import run

pytestmark = pytest.mark.faults


@pytest.mark.timeout(300)
def test_nobody_is_sent_to_twice_and_only_those_under_way_at_a_kill_are_unknown() -> None:
    report = run(CampaignSettings(300, "ci", pause=0.5, rate=20, restart_at=1.0, kills=2))
    assert report.violations == [], f"see {report.folder}"
    assert report.faults["kill a worker"] >= 2
    assert report.faults["restart the server"] == 1
    assert report.faults["throttled"] > 0
