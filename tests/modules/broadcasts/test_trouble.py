"""An API in trouble: a campaign backs off as a whole, and few become unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync.modules.broadcasts import Broadcasts
from pgsync.modules.broadcasts.sending import Verdict
from pgsync.modules.broadcasts.trouble import Trouble
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.broadcasts.looking import states_of

NewCampaign = Callable[[int], int]

SENDERS = 8


def _next_run(database: Any) -> float:
    row = database.execute(
        "SELECT extract(epoch FROM max(run_at) - now()) FROM pgsync.jobs"
        " WHERE task = 'campaign_sending'"
    ).fetchone()
    return float(row[0])


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ({"kind": "reset"}, "unknown"),
        ({"kind": "html"}, "unknown"),
        ({"kind": "error", "code": 131000}, "unknown"),
        ({"kind": "error", "code": 131016, "status": 503}, "unknown"),
        ({"kind": "error", "code": 131057}, "pending"),
    ],
)
def test_a_campaign_backs_off_until_the_api_answers_again(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    database: Any,
    fault: dict[str, Any],
    left: str,
) -> None:
    campaign = new_campaign(100)
    standin.inject(times=None, path="messages", **fault)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    touched = "SELECT count(*) FROM pgsync_modules.campaign_recipient WHERE error IS NOT NULL"
    (before,) = database.execute(touched).fetchone()
    # Those that were under way when the eighth met it.
    assert SENDERS <= before < 2 * SENDERS
    assert states_of(database, campaign).get(left, 0) >= before
    state, reason = database.execute(
        "SELECT state, state_reason FROM pgsync_modules.campaign"
    ).fetchone()
    assert state == "sending"
    assert reason.startswith("waits: the API is in trouble: ")
    assert 3 < _next_run(database) < 7
    # Each further run calls once, and the next one waits for longer.
    for number in (1, 2):
        database.execute("DELETE FROM pgsync.job_scheduled")
        database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
        broadcasts.campaign_sending(campaign_id=campaign)
        (after,) = database.execute(touched).fetchone()
        assert after <= before + number
        assert 5 * 2**number * 0.7 < _next_run(database) < 5 * 2**number * 1.3
    standin.clear_faults()
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert database.execute("SELECT troubled_rounds FROM pgsync_modules.campaign").fetchone() == (
        0,
    )
    assert max(standin.log.accepted.values()) == 1
    assert len(standin.log.accepted) == 100 - states_of(database, campaign).get("unknown", 0)


def test_trouble_now_and_then_does_not_hold_a_campaign_up() -> None:
    trouble = Trouble(senders=4, rounds=0)
    for _ in range(10):
        for _ in range(3):
            trouble.count(Verdict("unknown", trouble="a timeout"))
        trouble.count(Verdict("pending"))  # It had to wait, and tells nothing.
        trouble.count(Verdict("sent"))
    assert (trouble.reason, trouble.rounds, trouble.probing) == (None, 0, False)


def test_one_call_tells_whether_the_api_answers_again() -> None:
    for answer in ("sent", "failed"):
        trouble = Trouble(senders=8, rounds=3)
        assert trouble.probing
        trouble.count(Verdict("pending"))
        assert trouble.probing
        trouble.count(Verdict(answer))
        assert (trouble.probing, trouble.rounds) == (False, 0)
    trouble = Trouble(senders=8, rounds=3)
    trouble.count(Verdict("unknown", trouble="a timeout"))
    assert (trouble.reason, trouble.rounds) == ("a timeout", 4)


def test_the_wait_has_a_bound() -> None:
    assert Trouble(senders=8, rounds=1000).wait <= 750
