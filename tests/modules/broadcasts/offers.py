"""What tests of filled templates do with a campaign, and look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync import Coordinator
from pgsync.modules.broadcasts import Broadcasts, PreflightFailed
from pgsync.modules.whatsapp.standin import GraphStandin

__all__ = ["NewOffer", "refused", "send", "sent_components"]

NewOffer = Callable[..., int]


def send(broadcasts: Broadcasts, sync: Coordinator, campaign: int) -> None:
    broadcasts.start(campaign)
    sync.run_worker(queues=["campaigns"], drain=True)
    assert broadcasts.campaigns.state_of(campaign) == "completed"


def sent_components(standin: GraphStandin) -> list[list[dict[str, Any]]]:
    bodies = [entry.body for entry in standin.log.entries() if entry.method == "POST"]
    return [body["template"].get("components", []) for body in bodies]


def refused(broadcasts: Broadcasts, campaign: int) -> str:
    with pytest.raises(PreflightFailed) as caught:
        broadcasts.start(campaign)
    return str(caught.value)
