"""Denials are remembered here until the key may open again: asking anew costs a round trip."""

from __future__ import annotations

import time

from pgsync.limits.decision import Decision
from pgsync.limits.declared import LimitSet

__all__ = ["Denials"]

_MOST = 10_000


class Denials:
    """Denied keys of this process.

    Each is remembered for at most ``seconds``: so late may be seen here that a penalty was lifted,
    a key cleared, a limit raised or permits given back elsewhere.
    """

    def __init__(self) -> None:
        self._denied: dict[tuple[str, LimitSet], tuple[float, float, Decision]] = {}

    def find(self, key: str, limits: LimitSet, cost: int) -> Decision | None:
        """The denial of so many permits or fewer, if it holds still; ``retry_after`` is of now."""
        denied = self._denied.get((key, limits)) if self._denied else None
        if denied is None:
            return None
        until, at, decision = denied
        now = time.monotonic()
        if now >= until:
            self._denied.pop((key, limits), None)
            return None
        if cost < decision.cost:
            return None
        waited = now - at
        return decision._replace(
            cost=cost,
            retry_after=max(0.0, decision.retry_after - waited),
            resets_after=max(0.0, decision.resets_after - waited),
        )

    def add(self, limits: LimitSet, decision: Decision, asked_at: float, seconds: float) -> None:
        """Remember a denial that was asked for at ``asked_at`` (monotonic)."""
        until = asked_at + min(decision.retry_after, seconds)
        now = time.monotonic()
        if until <= now:
            return
        if len(self._denied) >= _MOST:
            self._denied = {k: v for k, v in self._denied.copy().items() if v[0] > now}
            if len(self._denied) >= _MOST:
                self._denied = {}
        self._denied[decision.key, limits] = (until, asked_at, decision)

    def forget(self, key: str) -> None:
        """Ask again at the next hit of the key."""
        for known in [known for known in self._denied.copy() if known[0] == key]:
            self._denied.pop(known, None)
