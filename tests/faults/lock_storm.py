"""The faults of the locks' harness: many of them meet whoever holds the lock."""

from __future__ import annotations

from collections.abc import Iterator

from pgsync.database.embedded import EmbeddedServer
from tests.faults.crew import Crew
from tests.faults.lock_worker import LOCK
from tests.faults.storm import Fault, Storm

__all__ = ["LOCK_FAULTS", "LockStorm"]

LOCK_FAULTS = {
    "kill a worker": 2,
    "kill the holder": 3,
    "freeze a worker": 2,
    "freeze the holder": 4,
    "end a lock session": 4,
    "end the holder's session": 4,
    "end a data session": 3,
    "kill -9 a backend": 0.5,
    "immediate shutdown": 0.5,
}
"""How often each kind comes, beside the others."""


class LockStorm(Storm):
    """A storm that finds the lock's holder."""

    def __init__(self, server: EmbeddedServer, crew: Crew, faults: Iterator[Fault]) -> None:
        super().__init__(server, crew, faults)
        self.acts |= {
            "kill the holder": lambda fault: self.kill(self._holder_place(fault)),
            "freeze the holder": lambda fault: self.freeze(self._holder_place(fault), fault),
            "end a lock session": lambda fault: self.end("pgsync locks%", fault),
            "end the holder's session": self._end_holder,
            "end a data session": lambda fault: self.end("guarded data", fault),
        }

    def _holder_place(self, fault: Fault) -> int:
        rows = self.ask("SELECT owner FROM pgsync.locks WHERE name = %s", LOCK)
        place = self.crew.place_of(rows[0][0] if rows else None)
        return self.any_place(fault) if place is None else place

    def _end_holder(self, fault: Fault) -> bool:
        rows = self.ask("SELECT pid FROM pgsync.locks WHERE name = %s", LOCK)
        return bool(rows) and self.end_session(rows[0][0])
