"""The three algorithms again, in plain Python and whole microseconds, for tests to compare with.

They are written from the definitions, not from the SQL: a window is a dict of counts, a bucket is a
level that drains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Permits = Sequence[tuple[int, int]]
"""Moments (microseconds) at which permits were used, and how many, in the order of time."""


@dataclass
class FixedWindow:
    """A window that its first hit opens."""

    max: int
    per: int
    ends: int = -1
    hits: int = 0

    def room(self, now: int) -> int:
        """How many permits there are."""
        return self.max - self.hits if now < self.ends else self.max

    def take(self, now: int, cost: int) -> None:
        """Take permits that there are."""
        if now >= self.ends:
            self.ends, self.hits = now + self.per, 0
        self.hits += cost


@dataclass
class SlidingWindow:
    """Counts of two parts side by side; the earlier one counts by as much of it as is in reach."""

    max: int
    per: int
    began: int | None = None
    current: int = 0
    previous: int = 0

    def _roll(self, now: int) -> None:
        if self.began is not None and now >= self.began + 2 * self.per:
            self.began = None
        if self.began is None:
            self.began, self.current, self.previous = now, 0, 0
        elif now >= self.began + self.per:
            self.began, self.current, self.previous = self.began + self.per, 0, self.current

    def room(self, now: int) -> int:
        """How many permits there are."""
        if self.began is None or now >= self.began + 2 * self.per:
            return self.max
        began, current, previous = self.began, self.current, self.previous
        if now >= began + self.per:
            began, current, previous = began + self.per, 0, current
        weight = Fraction(began + self.per - now, self.per)
        return max(0, (self.max - current - previous * weight).__floor__())

    def take(self, now: int, cost: int) -> None:
        """Take permits that there are."""
        self._roll(now)
        self.current += cost


@dataclass
class TokenBucket:
    """How far ahead of the clock the bucket is: each permit adds per / max, rounded up."""

    max: int
    per: int
    burst: int
    full_at: int = 0

    def room(self, now: int) -> int:
        """How many permits there are."""
        ahead = max(0, self.full_at - now)
        return max(0, (self.burst - Fraction(ahead * self.max, self.per)).__floor__())

    def take(self, now: int, cost: int) -> None:
        """Take permits that there are."""
        self.full_at = max(self.full_at, now) + -(-cost * self.per // self.max)


Model = FixedWindow | SlidingWindow | TokenBucket


def most_in_any_interval(permits: Permits, length: int) -> int:
    """The most permits used in any half-open interval of this length."""
    most = running = start = 0
    for moment, cost in permits:
        running += cost
        while permits[start][0] <= moment - length:
            running -= permits[start][1]
            start += 1
        most = max(most, running)
    return most


def bucket_holds(permits: Permits, max: int, per: int, burst: int) -> bool:
    """Whether every interval has at most burst permits and what flows in meanwhile."""
    level, last = Fraction(0), 0
    for moment, cost in permits:
        level = level - Fraction((moment - last) * max, per)
        level = (level if level > 0 else Fraction(0)) + cost
        last = moment
        if level > burst:
            return False
    return True
