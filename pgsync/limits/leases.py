"""Leases: permits that were taken many at a time, and are handed out here without a round trip.

A leased permit counts in the window in which it was taken, so it may be used only until that window
ends: then no window ever has more than its limit, whoever holds how many.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from pgsync.limits.calls import Grant
from pgsync.limits.decision import Decision, Ticket
from pgsync.limits.declared import LimitSet

__all__ = ["Lease", "Leases"]

_MOST = 10_000


class Lease:
    """The permits of one key that are left here.

    ``turn`` is held by who asks the database for more; it is the lock of the caller's face.
    """

    __slots__ = ("_at", "_decision", "_ends", "_left", "_mutex", "key", "limits", "turn")

    def __init__(self, key: str, limits: LimitSet, turn: Any) -> None:
        self.key = key
        self.limits = limits
        self.turn = turn
        self._mutex = threading.Lock()
        self._left = 0
        self._ends = 0.0
        self._at = 0.0
        self._decision: Decision | None = None

    @property
    def is_over(self) -> bool:
        """Whether its window has ended, with nothing to give back."""
        return time.monotonic() >= self._ends and (not self._left or len(self.limits.limits) == 1)

    def take(self, cost: int) -> Decision | None:
        """Use permits, if there are so many."""
        with self._mutex:
            left = self._left - cost
            if left < 0 or self._decision is None:
                return None
            now = time.monotonic()
            if now >= self._ends:
                return None
            self._left = left
            granted = self._decision
        return Decision(
            True,
            granted.remaining + left,
            0.0,
            granted.resets_at,
            granted.limit,
            max(0.0, granted.resets_after - (now - self._at)),
            granted.quota,
            self.key,
            cost,
            granted.ticket,
        )

    def fill(self, grant: Grant, asked_at: float) -> None:
        """Add what was granted, but for one hit's worth: that is used already.

        The window's end is reckoned from before the question was sent: early rather than late.
        """
        decision = grant.decision
        more = (grant.times - 1) * decision.cost
        ends = asked_at + grant.lasts
        with self._mutex:
            same = self._decision is not None and decision.resets_at == self._decision.resets_at
            # Of what is left of one window, nothing is left in the next.
            self._left = more + (self._left if same and asked_at < self._ends else 0)
            self._ends = min(ends, self._ends) if same else ends
            self._at = asked_at
            self._decision = decision

    def surrender(self) -> tuple[int, Ticket] | None:
        """Stop using it: how many permits are left, and of when they are."""
        with self._mutex:
            left, self._left = self._left, 0
            decision, self._decision = self._decision, None
        if left and decision is not None and decision.ticket is not None:
            return left, decision.ticket
        return None


class Leases:
    """The leases of this process, one a key and its limits."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._leases: dict[tuple[str, LimitSet], Lease] = {}

    def of(self, key: str, limits: LimitSet, turn: Any) -> Lease:
        """The key's lease, empty at first; ``turn`` makes its lock."""
        lease = self._leases.get((key, limits))
        if lease is None:
            with self._mutex:
                if len(self._leases) >= _MOST:
                    self._leases = {k: v for k, v in self._leases.items() if not v.is_over}
                lease = self._leases.setdefault((key, limits), Lease(key, limits, turn()))
        return lease

    def forget(self, key: str) -> None:
        """Use no more of what is leased of a key."""
        for lease in self.all():
            if lease.key == key:
                lease.surrender()

    def all(self) -> list[Lease]:
        """Every lease."""
        with self._mutex:
            return list(self._leases.values())
