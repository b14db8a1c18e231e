"""Coalescing: what many threads ask of one session at once goes in one round trip.

Flat combining (Hendler, Incze, Shavit and Tzafrir, SPAA 2010): whoever finds nobody asking asks for
all who have come meanwhile; the others wait for their answers, and one of them is next. A single
thread waits for nobody and pays next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from pgsync.errors import OutcomeUnknown
from pgsync.locks.calls import (
    Grant,
    abandon_all_but,
    acquire_lock,
    exchange_locks,
    release_lock,
)
from pgsync.locks.held import LockRequest
from pgsync.locks.session import LockSession

__all__ = ["Exchange"]

_MOST = 100


class _Party:
    """What one thread asks at once: locks to try, or one to release.

    ``sent_at`` (monotonic) is from before the round trip that carried it. ``leads`` says that its
    thread is to ask for all.
    """

    __slots__ = ("_bell", "error", "grants", "leads", "requests", "sent_at", "token")

    def __init__(self, requests: Sequence[LockRequest] = (), token: int | None = None) -> None:
        self.requests = requests
        self.token = token
        self.grants: list[Grant] | None = None
        self.error: Exception | None = None
        self.sent_at = 0.0
        self.leads = False
        self._bell: threading.Lock | None = None

    @property
    def answered(self) -> bool:
        """Whether the answers, or an error, have come."""
        return self.grants is not None or self.error is not None

    def stand(self) -> None:
        """Prepare to be rung for: with the answer, or to lead."""
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        """Wake the thread that waits."""
        if self._bell is not None:
            self._bell.release()

    def wait(self, seconds: float = -1) -> None:
        """Wait until it is rung for."""
        assert self._bell is not None
        self._bell.acquire(timeout=seconds)


class Exchange:
    """The requests of many threads on one session.

    It keeps the ledger of what the session holds, so that after an interruption all else can be
    given back.
    """

    def __init__(self, session: LockSession) -> None:
        self.session = session
        self._mutex = threading.Lock()
        self._asking = False
        self._queue: deque[_Party] = deque()
        self._tokens: set[int] = set()

    def try_locks(self, requests: Sequence[LockRequest]) -> tuple[float, list[Grant]]:
        """Try for locks; returns when the question was sent (monotonic), and the answer for each.

        Raises:
            OutcomeUnknown: if the session ended before the answer came.
        """
        party = _Party(requests)
        grants = self._ask(party)
        return party.sent_at, grants

    def release(self, token: int) -> bool:
        """Release a lock; False where the session does not hold it."""
        return self._ask(_Party(token=token))[0].acquired

    def adopt(self, token: int) -> None:
        """The session was granted a lock outside the exchange."""
        self._tokens.add(token)

    def forget(self, token: int) -> None:
        """The session holds the token's lock no longer."""
        self._tokens.discard(token)

    def _ask(self, party: _Party) -> list[Grant]:
        with self._mutex:
            leads = not self._asking
            if leads:
                self._asking = True
            else:
                party.stand()
                self._queue.append(party)
        if leads:
            self._lead(party)
        else:
            self._stand_by(party)
        if party.error is not None:
            raise party.error
        assert party.grants is not None
        return party.grants

    def _stand_by(self, party: _Party) -> None:
        """Wait for the answers, or for the turn to ask."""
        try:
            party.wait()
        except BaseException:
            self._withdraw(party)
            raise
        if party.leads:
            self._lead(party)

    def _withdraw(self, party: _Party) -> None:
        """Interrupted while standing by: ask no longer, and give back what is granted yet."""
        while not party.answered:
            with self._mutex:
                in_queue = party in self._queue
                if in_queue:
                    self._queue.remove(party)
            if party.leads:
                self._pass_on()
            if in_queue or party.leads:
                return
            party.wait(0.05)  # It is under way: one round trip.
        for grant in party.grants or ():
            if party.requests and grant.acquired and grant.token is not None:
                self.release(grant.token)

    def _lead(self, party: _Party) -> None:
        """Ask for all who stand in the queue, and make one of those who came since lead."""
        with self._mutex:
            if party.leads:
                self._queue.remove(party)
            batch = [party]
            size = len(party.requests)
            while self._queue and size < _MOST:
                batch.append(self._queue.popleft())
                size += len(batch[-1].requests) or 1
        try:
            self._exchange(batch)
        except BaseException:
            # Interrupted: nobody's answer is known. The others ask again.
            with self._mutex:
                self._queue.extendleft(p for p in reversed(batch[1:]) if not p.answered)
            raise
        finally:
            self._pass_on()
            for other in batch[1:]:
                if other.answered:
                    other.ring()

    def _pass_on(self) -> None:
        with self._mutex:
            if not self._queue:
                self._asking = False
                return
            following = self._queue[0]
            following.leads = True
        following.ring()

    def _exchange(self, batch: list[_Party]) -> None:
        try:
            self._send(batch)
        except OutcomeUnknown as error:
            for party in batch:
                party.error = error
        except BaseException as error:
            # Some may have been granted after all.
            known = self._tokens - {party.token for party in batch}
            self.session.run(abandon_all_but(list(known)))
            if not isinstance(error, Exception):
                raise
            if len(batch) == 1:
                batch[0].error = error
                return
            # One of them spoilt it for all: each alone, that only the guilty one hears of it.
            for party in batch:
                self._exchange([party])

    def _send(self, batch: list[_Party]) -> None:
        releasing = [party.token for party in batch if party.token is not None]
        wanted = [request for party in batch for request in party.requests]
        sent_at = time.monotonic()
        if len(wanted) + len(releasing) > 1:
            rows = self.session.run(exchange_locks(releasing, wanted))
            released = iter([grant for place, grant in rows if place < 0])
            granted = iter([grant for place, grant in rows if place > 0])
        elif wanted:
            granted = iter([self.session.run(acquire_lock(wanted[0]))])
        else:
            held = self.session.run(release_lock(releasing[0]))
            released = iter([Grant(held, None, None, None, None)])
        for party in batch:
            party.sent_at = sent_at
            if party.token is not None:
                party.grants = [next(released)]
                self._tokens.discard(party.token)
            else:
                party.grants = [next(granted) for _ in party.requests]
                self._tokens.update(g.token for g in party.grants if g.token is not None)
