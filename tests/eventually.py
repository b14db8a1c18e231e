"""Waiting for something to become true, with a deadline: the tests' only way to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")

_LONGEST_LOOK = 0.25


def eventually(condition: Callable[[], T], within: float = 60.0) -> T:
    """Return the first true answer of ``condition``; fail if there is none within the time.

    Of each look at most a quarter of a second counts: where this process could not run for longer,
    what it waits for could not run either.
    """
    left, looked = within, time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        assert left > 0, f"not true within {within:g} s: {condition}"
        time.sleep(0.005)
        now = time.monotonic()
        left -= min(now - looked, _LONGEST_LOOK)
        looked = now
