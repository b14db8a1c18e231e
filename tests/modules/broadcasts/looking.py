"""What the tests of campaigns look at."""

from __future__ import annotations

from typing import Any

__all__ = ["states_of"]


def states_of(database: Any, campaign: int) -> dict[str, int]:
    """How many recipients of a campaign are in each state."""
    rows = database.execute(
        "SELECT state, count(*) FROM pgsync_modules.campaign_recipient WHERE campaign_id = %s"
        " GROUP BY state",
        [campaign],
    )
    return dict(rows.fetchall())
