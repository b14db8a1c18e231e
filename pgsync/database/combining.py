"""Combining: what many callers ask of one session at once goes in one round trip.

Flat combining (Hendler, Incze, Shavit and Tzafrir, SPAA 2010): whoever finds nobody asking asks for
all who have come meanwhile; the others wait for their answers, and one of them is next. A single
caller waits for nobody and pays next to nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Generic, TypeVar

__all__ = ["AsyncCombiner", "Combiner", "Party"]

_USUAL_SECONDS = 0.005
"""A round trip that takes longer is no measure of how long to wait for others."""

_LOOK_AGAIN = 1.0
"""After so long one looks oneself whether one is answered, should whoever was to ring have died."""


class Party:
    """What one caller asks at once. Whoever asks for all sets the answer, or ``error``.

    ``weight`` is its share of what may go in one round trip. ``leads`` says that its caller is to
    ask for all. ``following`` was answered with it, and is to be rung for next.
    """

    __slots__ = ("_bell", "answered", "error", "following", "leads", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        self.answered = False
        self.error: Exception | None = None
        self.leads = False
        self.following: Party | None = None
        self._bell: threading.Lock | None = None

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        self.error = error
        self.answered = True

    def stand(self) -> None:
        """Prepare to be rung for: with the answer, or to lead."""
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        """Wake the thread that waits."""
        if self._bell is not None:
            self._bell.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung for; False where it was not in that time."""
        assert self._bell is not None
        return self._bell.acquire(timeout=seconds)


P = TypeVar("P", bound=Party)


def _batch(queue: deque[P], most: int, first: list[P]) -> list[P]:
    weight = sum(party.weight for party in first)
    while queue and (not first or weight + queue[0].weight <= most):
        first.append(queue.popleft())
        weight += first[-1].weight
    return first


class Combiner(Generic[P]):
    """The requests of many threads.

    ``serve`` answers each of a list of parties, in the thread of one of them; together they weigh
    at most ``most``, unless it is only one. Where ``gathers`` others or more were answered together
    in the last round trip, whoever asks next waits for as many, as long as that took at most, since
    else they would go one first and the rest after. Who comes alone still waits for nobody.
    """

    def __init__(
        self, serve: Callable[[list[P]], None], most: int, *, gathers: int | None = None
    ) -> None:
        self._serve = serve
        self._most = most
        self._gathers = gathers
        self._company = 0
        self._took = 0.0
        self._ended = 0.0
        self._gathering: P | None = None
        self._mutex = threading.Lock()
        self._asking = False
        self._queue: deque[P] = deque()

    def ask(self, party: P) -> None:
        """Have the party answered; raises its error.

        An interrupted caller may find the party answered all the same.
        """
        with self._mutex:
            leads = not self._asking
            if leads:
                self._asking = True
            else:
                party.stand()
                self._queue.append(party)
                if self._gathering is not None and len(self._queue) >= self._company:
                    self._gathering.ring()
                    self._gathering = None
        if leads:
            self._lead(party)
        else:
            self._stand_by(party)
        if party.error is not None:
            raise party.error

    def try_lead(self) -> bool:
        """Whether nobody asks: then ask for oneself, without a party, and :meth:`pass_on`."""
        with self._mutex:
            leads = not self._asking
            self._asking = True
        return leads

    def _stand_by(self, party: P) -> None:
        """Wait for the answer, or for the turn to ask."""
        try:
            while not party.wait(_LOOK_AGAIN) and not party.answered:
                pass
        except BaseException:
            self._withdraw(party)
            raise
        finally:
            if party.following is not None:
                party.following.ring()
        if party.leads:
            self._lead(party)

    def _withdraw(self, party: P) -> None:
        """Interrupted while standing by: ask no longer, or wait for the answer under way."""
        answered = False
        while not answered:
            with self._mutex:
                in_queue = party in self._queue
                if in_queue:
                    self._queue.remove(party)
            if party.leads:
                self.pass_on()
            if in_queue or party.leads:
                return
            answered = party.answered
            party.wait(0.05)  # It is under way: one round trip, or the ring of who was before.

    def _lead(self, party: P) -> None:
        """Ask for all who stand in the queue, and make one of those who came since lead."""
        batch = [party]
        began = time.monotonic()
        try:
            if party.leads:
                with self._mutex:
                    self._queue.remove(party)
            if self._gathers is not None and self._company >= self._gathers:
                self._gather(party)
            if self._queue:
                with self._mutex:
                    _batch(self._queue, self._most, batch)
            began = time.monotonic()
            self._serve(batch)
        except BaseException:
            # Interrupted: nobody's answer is known. The others ask again.
            with self._mutex:
                self._queue.extendleft(p for p in reversed(batch[1:]) if not p.answered)
            raise
        finally:
            self._company = len(batch) - 1
            self._ended = time.monotonic()
            self._took = min(self._ended - began, _USUAL_SECONDS)
            self.pass_on()
            self._ring([other for other in batch[1:] if other.answered])

    def _ring(self, answered: list[P]) -> None:
        """Wake the first, who wakes the next: woken at once, all would only wait for the GIL."""
        for other, following in pairwise(answered):
            other.following = following
        if answered:
            answered[0].ring()

    def _gather(self, party: P) -> None:
        """Wait for the company of the last round trip, if that has just ended."""
        with self._mutex:
            late = time.monotonic() > self._ended + self._took
            if late or len(self._queue) >= self._company:
                return
            party.stand()
            self._gathering = party
        try:
            party.wait(self._took)
        finally:
            with self._mutex:
                self._gathering = None

    def pass_on(self) -> None:
        """Have asked: the next of those who came meanwhile is to ask for the others."""
        with self._mutex:
            if not self._queue:
                self._asking = False
                return
            following = self._queue[0]
            following.leads = True
        following.ring()


class AsyncCombiner(Generic[P]):
    """As :class:`Combiner`, for the tasks of one event loop.

    A task of its own asks, so that a cancelled caller only stops waiting.
    """

    def __init__(self, serve: Callable[[list[P]], Awaitable[None]], most: int) -> None:
        self._serve = serve
        self._most = most
        self._queue: deque[P] = deque()
        self._answers: dict[P, asyncio.Future[None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, party: P) -> None:
        """As :meth:`Combiner.ask`."""
        answer = self._answers[party] = asyncio.get_running_loop().create_future()
        self._queue.append(party)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        await answer
        if party.error is not None:
            raise party.error

    async def _ask_for_all(self) -> None:
        try:
            while self._queue:
                batch = _batch(self._queue, self._most, [])
                try:
                    await self._serve(batch)
                except Exception as error:  # noqa: BLE001 - it is the callers'
                    for party in batch:
                        if not party.answered:
                            party.fail(error)
                for party in batch:
                    answer = self._answers.pop(party)
                    if not answer.done():
                        answer.set_result(None)
                await asyncio.sleep(0)  # The answered may have more to ask.
        finally:
            self._asking = None
            # Some are left where the loop ends: nobody's answer is known.
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            self._queue.clear()
