"""How fast campaigns send: caps that are shared by all of a tenant, a connection, a number.

Permits are taken before recipients are claimed: what waits for a permit is pending, not claimed, so
that it can be paused and a crash does not make it unknown. The same holds where the API asked all
calls of the connection to wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgsync.coordinator import Coordinator
from pgsync.limits import Decision, Limit, Limiter, SlidingWindow, TokenBucket
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.connections import Budget

__all__ = ["UNCAPPED", "Caps", "Pace"]

_TENANT = SlidingWindow(120, per=60)
_CONNECTION = SlidingWindow(60, per=60)
_CAMPAIGN = SlidingWindow(40, per=60)
_NUMBER = TokenBucket(80, per=1)
_PAIR = TokenBucket(10, per=60, burst=45)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many messages may be sent; None lifts a cap.

    ``tenant``, ``connection`` and ``campaign`` are the platform's own. ``number`` is what the API
    takes from a phone number, ``pair`` what it takes from one number to one recipient.
    """

    tenant: Limit | None = _TENANT
    connection: Limit | None = _CONNECTION
    campaign: Limit | None = _CAMPAIGN
    number: Limit | None = _NUMBER
    pair: Limit | None = _PAIR


UNCAPPED = Caps(tenant=None, connection=None, campaign=None, number=None, pair=None)
"""No caps of our own: the API's answers alone set the pace."""


class Pace:
    """The permits of one campaign's dispatcher."""

    def __init__(
        self,
        sync: Coordinator,
        caps: Caps,
        campaign: Campaign,
        connection: Connection,
        budget: Budget,
    ) -> None:
        self._budget = budget
        delay = None if campaign.send_delay is None else Limit(1, per=campaign.send_delay)
        # The narrowest first: what it refuses is not taken from the others.
        shared = (
            ("send-delay", delay, f"campaign:{campaign.id}"),
            ("send-campaign", caps.campaign, f"campaign:{campaign.id}"),
            ("send-connection", caps.connection, f"connection:{connection.id}"),
            ("send-tenant", caps.tenant, f"workspace:{campaign.workspace_id}"),
            ("send-number", caps.number, f"number:{connection.phone_number_id}"),
        )
        self._shared = [(sync.limiter(n, limit), key) for n, limit, key in shared if limit]
        self._pairs = sync.limiter("send-pair", caps.pair) if caps.pair else None
        self._number = connection.phone_number_id
        self._taken: list[tuple[Limiter, Decision]] = []
        self.wait = 0.0
        """Seconds until there may be permits again; 0 where the last call got some."""

    def take(self, wanted: int, claimed: int = 0) -> int:
        """Take permits for up to ``wanted`` messages, of all caps, and say for how many.

        ``claimed`` are those that have theirs, and may not have made their call yet.
        """
        self.wait = 0.0
        self._taken = []
        # Each call takes from the budget itself: here it is only looked at, so that nobody is
        # claimed while all calls must wait.
        calls = self._budget.left()
        if not calls:
            self.wait = max(calls.retry_after, 0.001)
            return 0
        wanted = min(wanted, calls.remaining - claimed)
        if wanted <= 0:
            return 0
        for limiter, key in self._shared:
            decision = limiter.hit(key, cost=min(wanted, limiter.limits[0].most))
            if not decision and 0 < decision.remaining < wanted:
                wanted = decision.remaining
                decision = limiter.hit(key, cost=wanted)
            if not decision:
                self._give_back_above(0)
                self.wait = max(decision.retry_after, 0.001)
                return 0
            self._taken.append((limiter, decision))
            wanted = min(wanted, decision.cost)
        self._give_back_above(wanted)
        return wanted

    def give_back(self, unused: int) -> None:
        """Give back so many of the permits that were taken last."""
        if unused > 0:
            kept = min((decision.cost for _, decision in self._taken), default=0) - unused
            self._give_back_above(max(kept, 0))

    def _give_back_above(self, kept: int) -> None:
        left = []
        for limiter, decision in self._taken:
            if decision.cost > kept:
                limiter.refund(decision, decision.cost - kept)
            if kept:
                left.append((limiter, decision._replace(cost=min(kept, decision.cost))))
        self._taken = left

    def pair_wait(self, phone: str) -> float:
        """Take a permit for a message to this recipient; seconds to wait where there is none."""
        if self._pairs is None:
            return 0.0
        decision = self._pairs.hit(f"{self._number}:{phone}")
        return 0.0 if decision else max(decision.retry_after, 0.001)
