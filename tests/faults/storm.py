"""Faults in an order that a seed decides, done to the workers and to their server."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from pgsync.database.embedded import EmbeddedServer
from tests.eventually import eventually
from tests.faults.crew import Crew
from tests.faults.lock_worker import LOCK

__all__ = ["Fault", "Storm", "plan"]

_WEIGHTS = {
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


@dataclass(frozen=True)
class Fault:
    """``pause`` seconds after the last fault; ``pick`` in [0, 1) chooses among those there are."""

    kind: str
    pause: float
    pick: float
    length: float


def plan(seed: str, ttl: float) -> Iterator[Fault]:
    """Faults without end, the same for the same seed; each kind comes once before any repeats."""
    rng = random.Random(f"{seed}.storm")
    kinds = list(_WEIGHTS)
    first = rng.sample(kinds, len(kinds))
    while True:
        kind = first.pop() if first else rng.choices(kinds, list(_WEIGHTS.values()))[0]
        yield Fault(kind, rng.uniform(0.05, 0.6), rng.random(), rng.uniform(1.1, 2.0) * ttl)


class Storm:
    """Carries out a plan; ``done`` counts the faults that met somebody, by kind."""

    def __init__(self, server: EmbeddedServer, crew: Crew, faults: Iterator[Fault]) -> None:
        self._server = server
        self._crew = crew
        self._faults = faults
        self._wakes: list[tuple[float, int]] = []
        self._log = crew.folder / "faults"
        self.done: Counter[str] = Counter()
        self._acts: dict[str, Callable[[Fault], bool]] = {
            "kill a worker": lambda fault: self._kill(self._any_place(fault)),
            "kill the holder": lambda fault: self._kill(self._holder_place(fault)),
            "freeze a worker": lambda fault: self._freeze(self._any_place(fault), fault),
            "freeze the holder": lambda fault: self._freeze(self._holder_place(fault), fault),
            "end a lock session": lambda fault: self._end("pgsync locks%", fault),
            "end the holder's session": self._end_holder,
            "end a data session": lambda fault: self._end("counter data", fault),
            "kill -9 a backend": self._kill_backend,
            "immediate shutdown": self._shut_down,
        }

    def blow(self, seconds: float) -> None:
        """Do faults for that long, then wake whoever is frozen still."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            fault = next(self._faults)
            self._rest(time.monotonic() + fault.pause)
            began = time.monotonic()
            met = self._acts[fault.kind](fault)
            if met:
                self.done[fault.kind] += 1
            with self._log.open("a") as log:
                log.write(json.dumps({"at": began, "met": met, **asdict(fault)}) + "\n")
        for _, place in self._wakes:
            self._crew.wake(place)

    def _rest(self, until: float) -> None:
        """Let time pass, waking the frozen when theirs has come."""
        while self._wakes and self._wakes[0][0] <= until:
            at, place = heapq.heappop(self._wakes)
            time.sleep(max(0.0, at - time.monotonic()))
            self._crew.wake(place)
        time.sleep(max(0.0, until - time.monotonic()))

    def _any_place(self, fault: Fault) -> int:
        return int(fault.pick * self._crew.count)

    def _holder_place(self, fault: Fault) -> int:
        rows = self._ask("SELECT owner FROM pgsync.locks WHERE name = %s", LOCK)
        place = self._crew.place_of(rows[0][0] if rows else None)
        return self._any_place(fault) if place is None else place

    def _kill(self, place: int) -> bool:
        self._crew.kill(place)
        return True

    def _freeze(self, place: int, fault: Fault) -> bool:
        frozen = self._crew.freeze(place)
        if frozen:
            heapq.heappush(self._wakes, (time.monotonic() + fault.length, place))
        return frozen

    def _end(self, application_name: str, fault: Fault) -> bool:
        pids = self._sessions(application_name)
        return bool(pids) and self._end_session(pids[int(fault.pick * len(pids))])

    def _end_holder(self, fault: Fault) -> bool:
        rows = self._ask("SELECT pid FROM pgsync.locks WHERE name = %s", LOCK)
        return bool(rows) and self._end_session(rows[0][0])

    def _end_session(self, pid: int) -> bool:
        return bool(self._ask("SELECT pg_terminate_backend(%s)", pid)[0][0])

    def _kill_backend(self, fault: Fault) -> bool:
        """The server answers with a recovery, and ends every session."""
        pids = self._sessions("%")
        if not pids:
            return False
        os.kill(pids[int(fault.pick * len(pids))], signal.SIGKILL)
        return True

    def _shut_down(self, fault: Fault) -> bool:
        pid = self._server.status().pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGQUIT)
        eventually(lambda: self._server.status().pid != pid)
        self._server.start()
        return True

    def _sessions(self, application_name: str) -> list[int]:
        rows = self._ask(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND application_name LIKE %s ORDER BY backend_start, pid",
            application_name,
        )
        return [pid for (pid,) in rows]

    def _ask(self, statement: str, value: Any) -> list[Any]:
        def answer() -> list[Any] | None:
            try:
                with psycopg.connect(self._server.dsn, autocommit=True) as connection:
                    return [connection.execute(statement, [value]).fetchall()]
            except psycopg.OperationalError:
                return None  # it recovers from the last fault

        found: list[Any] = eventually(answer)[0]  # type: ignore[index]
        return found
