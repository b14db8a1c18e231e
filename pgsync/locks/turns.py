"""Turns: first come, first served among the threads and tasks of one process.

Session advisory locks stack inside a session, so exclusion within a process is kept here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress

from pgsync.database.calls import Invoke

__all__ = ["Turn", "Turns"]


class Turn:
    """One caller's place in a line.

    ``room`` is how many may have their turn at once: 1, or the slots of a semaphore, or None for
    all who share.
    """

    __slots__ = ("_come", "has_come", "line", "owner", "room")

    def __init__(self, line: Hashable, owner: str, room: int | None) -> None:
        self.line = line
        self.owner = owner
        self.room = room
        self.has_come = False
        self._come: Future[None] | None = None

    def stand(self) -> None:
        """Prepare to be told of the turn."""
        self._come = Future()

    def come(self) -> None:
        """Give the caller its turn."""
        self.has_come = True
        if self._come is not None:
            self._come.set_result(None)

    def wait(self, seconds: float) -> Invoke[bool]:
        """Wait at most ``seconds`` for the turn, and say whether it has come."""
        return Invoke(lambda: self._wait(seconds), lambda: self._wait_async(seconds))

    def _wait(self, seconds: float) -> bool:
        if self._come is not None:
            with suppress(FutureTimeout):
                self._come.result(seconds)
        return self.has_come

    async def _wait_async(self, seconds: float) -> bool:
        # wait() leaves what it waits for alone when it times out or is cancelled; wait_for()
        # would cancel the turn itself.
        if self._come is not None:
            await asyncio.wait([asyncio.wrap_future(self._come)], timeout=seconds)
        return self.has_come


class _Line:
    """Who has a turn, and who stands behind them."""

    __slots__ = ("inside", "waiting")

    def __init__(self) -> None:
        self.inside: list[Turn] = []
        self.waiting: deque[Turn] = deque()

    def admits(self, turn: Turn) -> bool:
        if not self.inside:
            return True
        if turn.room is None:
            return self.inside[0].room is None
        return self.inside[0].room is not None and len(self.inside) < turn.room

    def move_up(self) -> None:
        while self.waiting and self.admits(self.waiting[0]):
            turn = self.waiting.popleft()
            self.inside.append(turn)
            turn.come()


class Turns:
    """The lines for all names."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}
        self._mutex = threading.Lock()

    def enter(self, line: Hashable, owner: str, room: int | None = 1) -> Turn:
        """Join a line; who is admitted at once has its turn on return."""
        turn = Turn(line, owner, room)
        with self._mutex:
            standing = self._lines.get(line)
            if standing is None:
                standing = self._lines[line] = _Line()
            if not standing.waiting and standing.admits(turn):
                standing.inside.append(turn)
                turn.has_come = True
            else:
                turn.stand()
                standing.waiting.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Leave the line, with or without having had a turn; those behind move up."""
        with self._mutex:
            line = self._lines.get(turn.line)
            if line is None:
                return
            place = line.inside if turn in line.inside else line.waiting
            with suppress(ValueError):
                place.remove(turn)
            if line.inside or line.waiting:
                line.move_up()
            else:
                del self._lines[turn.line]

    def owner(self, line: Hashable) -> str | None:
        """Who has the turn: the holder, or the one who is about to be."""
        with self._mutex:
            standing = self._lines.get(line)
            return standing.inside[0].owner if standing and standing.inside else None
