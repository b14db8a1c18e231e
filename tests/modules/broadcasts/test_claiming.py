"""A claim takes the next that are pending, however many are done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.modules.broadcasts.recipients import _CLAIM


def test_a_claim_does_not_walk_past_those_that_are_done(
    sessions: sessionmaker[Session], new_campaign: Callable[[int], int], database: Any
) -> None:
    campaign = new_campaign(0)
    database.execute(
        "INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone)"
        " SELECT %s, '+49151' || (10000000 + n) FROM generate_series(1, 5000) AS n",
        [campaign],
    )
    # The statistics are those of a campaign that begins.
    database.execute("ANALYZE pgsync_modules.campaign_recipient")
    database.execute("UPDATE pgsync_modules.campaign SET state = 'sending'")
    database.execute("UPDATE pgsync_modules.campaign_recipient SET state = 'sent' WHERE id <= 4900")
    values = {"campaign_id": campaign, "batch": 16, "lease": timedelta(minutes=1)}
    with sessions() as session:
        plan = session.execute(text("EXPLAIN " + _CLAIM.text), values).scalars().all()
        assert any("Index Scan using campaign_recipient_pending" in line for line in plan)
        claimed = session.execute(_CLAIM, values).all()
    assert sorted(row.id for row in claimed) == list(range(4901, 4917))
