"""Waiting for something to become true, with a deadline: the tests' only way to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(condition: Callable[[], T], within: float = 60.0) -> T:
    """Return the first true answer of ``condition``; fail if there is none within the time."""
    until = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < until, f"not true within {within:g} s: {condition}"
        time.sleep(0.005)
