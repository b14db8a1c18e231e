"""What many threads ask of one lock session at once goes in one round trip.

See ``pgsync/database/combining.py``; here is what is asked for, and how it is undone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pgsync.database.combining import Combiner, Party
from pgsync.errors import OutcomeUnknown
from pgsync.locks.calls import (
    Grant,
    abandon_all_but,
    exchange_locks,
)
from pgsync.locks.held import LockRequest
from pgsync.locks.session import LockSession
from pgsync.locks.usual import exchange_usual_locks, is_usual

__all__ = ["Exchange"]

_MOST = 100
# Of two threads one may as well ask while the other does its work.
_GATHERS = 2


class _Party(Party):
    """What one thread asks at once: locks to try, or one to release.

    ``sent_at`` (monotonic) is from before the round trip that carried it.
    """

    __slots__ = ("grants", "requests", "sent_at", "token")

    def __init__(self, requests: Sequence[LockRequest] = (), token: int | None = None) -> None:
        super().__init__(len(requests) or 1)
        self.requests = requests
        self.token = token
        self.grants: list[Grant] = []
        self.sent_at = 0.0


class Exchange:
    """The requests of many threads on one session.

    It keeps the ledger of what the session holds, so that after an interruption all else can be
    given back.
    """

    def __init__(self, session: LockSession) -> None:
        self.session = session
        self._combiner = Combiner(self._exchange, _MOST, gathers=_GATHERS)
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
        try:
            self._combiner.ask(party)
        except BaseException:
            # Interrupted: what is granted yet is given back.
            for grant in party.grants:
                if party.requests and grant.acquired and grant.token is not None:
                    self.release(grant.token)
            raise
        return party.grants

    def _exchange(self, batch: list[_Party]) -> None:
        try:
            self._send(batch)
        except OutcomeUnknown as error:
            for party in batch:
                party.fail(error)
        except BaseException as error:
            # Some may have been granted after all.
            self._abandon([party.token for party in batch if party.token is not None])
            if not isinstance(error, Exception):
                raise
            if len(batch) == 1:
                batch[0].fail(error)
                return
            # One of them spoilt it for all: each alone, that only the guilty one hears of it.
            for party in batch:
                self._exchange([party])

    def _send(self, batch: list[_Party]) -> None:
        releasing = [party.token for party in batch if party.token is not None]
        wanted = [request for party in batch for request in party.requests]
        sent_at = time.monotonic()
        if len(wanted) + len(releasing) > 1:
            rows = self._ask_for_many(releasing, wanted)
            released = iter([grant for place, grant in rows if place < 0])
            granted = iter([grant for place, grant in rows if place > 0])
        elif wanted:
            granted = iter([self.session.try_lock(wanted[0])])
        else:
            held = self.session.release(releasing[0])
            released = iter([Grant(held, None, None, None, None)])
        for party in batch:
            party.sent_at = sent_at
            if party.token is not None:
                party.grants = [next(released)]
                self._tokens.discard(party.token)
            else:
                party.grants = [next(granted) for _ in party.requests]
                self._tokens.update(g.token for g in party.grants if g.token is not None)
            party.answered = True

    def _ask_for_many(
        self, released: Sequence[int], wanted: Sequence[LockRequest]
    ) -> list[tuple[int, Grant]]:
        if all(map(is_usual, wanted)):
            usual = exchange_usual_locks(released, wanted)
            if usual.goes_at_once:
                answers = self.session.ask(usual)
                if answers is not None:
                    return answers
                self._abandon(released)
        return self.session.run(exchange_locks(released, wanted))

    def _abandon(self, released: Sequence[int]) -> None:
        """Give back all that is not known to be held, and what was to be released."""
        self.session.run(abandon_all_but(list(self._tokens.difference(released))))
