"""Turns: first come, first served among the threads and tasks of one process.

Session advisory locks stack inside a session, so exclusion within a process is kept here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress

from pgsync.database.calls import Invoke

__all__ = ["Turn", "Turns"]


class Turn:
    """One caller's place in the line for a name."""

    def __init__(self, name: str, owner: str) -> None:
        self.name = name
        self.owner = owner
        self._come: Future[None] = Future()

    @property
    def has_come(self) -> bool:
        """Whether this caller is at the head of the line."""
        return self._come.done()

    def come(self) -> None:
        """Tell the caller that it is at the head of the line."""
        self._come.set_result(None)

    def wait(self, seconds: float) -> Invoke[bool]:
        """Wait at most ``seconds`` for the turn, and say whether it has come."""
        return Invoke(lambda: self._wait(seconds), lambda: self._wait_async(seconds))

    def _wait(self, seconds: float) -> bool:
        with suppress(FutureTimeout):
            self._come.result(seconds)
        return self.has_come

    async def _wait_async(self, seconds: float) -> bool:
        # wait() leaves what it waits for alone when it times out or is cancelled; wait_for()
        # would cancel the turn itself.
        await asyncio.wait([asyncio.wrap_future(self._come)], timeout=seconds)
        return self.has_come


class Turns:
    """The lines for all names."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Turn]] = {}
        self._mutex = threading.Lock()

    def enter(self, name: str, owner: str) -> Turn:
        """Join the line for ``name``; the first in it has its turn at once."""
        turn = Turn(name, owner)
        with self._mutex:
            line = self._lines.setdefault(name, deque())
            line.append(turn)
            if len(line) == 1:
                turn.come()
        return turn

    def leave(self, turn: Turn) -> None:
        """Leave the line, from its head or from its middle; the next in it has its turn."""
        with self._mutex:
            line = self._lines.get(turn.name)
            if line is None or turn not in line:
                return
            was_head = line[0] is turn
            line.remove(turn)
            if not line:
                del self._lines[turn.name]
            elif was_head:
                line[0].come()

    def owner(self, name: str) -> str | None:
        """Who is at the head of the line: the holder, or the one who is about to be."""
        with self._mutex:
            line = self._lines.get(name)
            return line[0].owner if line else None
