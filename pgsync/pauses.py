"""How long to pause before what failed is tried again: longer each time, and never in step."""

from __future__ import annotations

import random

__all__ = ["Pauses", "spread"]


class Pauses:
    """Seconds between tries: ``first``, then each twice the last up to ``longest``, all spread.

    ``next()`` gives one after another, without an end: whoever may not try for ever counts time.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def __iter__(self) -> Pauses:
        return self

    def __next__(self) -> float:
        pause = min(self._next, self._longest)
        self._next = 2 * pause
        return spread(pause)

    def reset(self) -> None:
        """Begin with the first again: a try has succeeded."""
        self._next = self._first


def spread(seconds: float, share: float = 0.5) -> float:
    """Seconds less a random part of them, at most ``share``.

    So those who began to wait together do not come back together. By default it is the "equal
    jitter" of M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    return seconds * random.uniform(1 - share, 1.0)  # noqa: S311 - no secret
