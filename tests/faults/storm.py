"""Faults in an order that a seed decides, done to the workers and to their server."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from pgsync.database.embedded import EmbeddedServer
from tests.eventually import eventually
from tests.faults.crew import Crew, Crews
from tests.faults.proxy import COMMITTED, Proxy

__all__ = ["Fault", "Storm", "acts_on", "plan"]


@dataclass(frozen=True)
class Fault:
    """``pause`` seconds after the last fault; ``pick`` in [0, 1) chooses among those there are."""

    kind: str
    pause: float
    pick: float
    length: float


def plan(seed: str, freeze: float, weights: Mapping[str, float]) -> Iterator[Fault]:
    """Faults without end, the same for the same seed; each kind comes once before any repeats.

    A freeze lasts longer than ``freeze`` seconds, and at most twice as long.
    """
    rng = random.Random(f"{seed}.storm")
    kinds = list(weights)
    first = rng.sample(kinds, len(kinds))
    while True:
        kind = first.pop() if first else rng.choices(kinds, list(weights.values()))[0]
        yield Fault(kind, rng.uniform(0.05, 0.6), rng.random(), rng.uniform(1.1, 2.0) * freeze)


class Storm:
    """Carries out a plan; ``done`` counts the faults that met somebody, by kind.

    ``acts`` says how each kind is done, and whether it met somebody.
    """

    def __init__(self, server: EmbeddedServer, crew: Crew | Crews, faults: Iterator[Fault]) -> None:
        self._server = server
        self.crew = crew
        self._faults = faults
        self._wakes: list[tuple[float, int]] = []
        self._log = crew.folder / "faults"
        self.done: Counter[str] = Counter()
        self.acts: dict[str, Callable[[Fault], bool]] = {
            "kill a worker": lambda fault: self.kill(self.any_place(fault)),
            "freeze a worker": lambda fault: self.freeze(self.any_place(fault), fault),
            "kill -9 a backend": self._kill_backend,
            "immediate shutdown": self._shut_down,
        }

    def blow(self, seconds: float, least: int = 0) -> None:
        """Do faults for that long, and so many at least; then wake whoever is frozen still."""
        until = time.monotonic() + seconds
        tried = 0
        while time.monotonic() < until or tried < least:
            tried += 1
            fault = next(self._faults)
            self.rest(fault.pause)
            began = time.monotonic()
            met = self.acts[fault.kind](fault)
            if met:
                self.done[fault.kind] += 1
            with self._log.open("a") as log:
                log.write(json.dumps({"at": began, "met": met, **asdict(fault)}) + "\n")
        for _, place in self._wakes:
            self.crew.wake(place)

    def rest(self, seconds: float) -> None:
        """Let time pass, waking the frozen when theirs has come."""
        until = time.monotonic() + seconds
        while self._wakes and self._wakes[0][0] <= until:
            at, place = heapq.heappop(self._wakes)
            time.sleep(max(0.0, at - time.monotonic()))
            self.crew.wake(place)
        time.sleep(max(0.0, until - time.monotonic()))

    def any_place(self, fault: Fault) -> int:
        """A place that the fault picks."""
        return int(fault.pick * self.crew.count)

    def kill(self, place: int) -> bool:
        """Kill the process there."""
        self.crew.kill(place)
        return True

    def freeze(self, place: int, fault: Fault) -> bool:
        """Stop the process there for the fault's length."""
        frozen = self.crew.freeze(place)
        if frozen:
            heapq.heappush(self._wakes, (time.monotonic() + fault.length, place))
        return frozen

    def end(self, application_name: str, fault: Fault) -> bool:
        """End a session of that name, which the fault picks."""
        pids = self._sessions(application_name)
        return bool(pids) and self.end_session(pids[int(fault.pick * len(pids))])

    def end_session(self, pid: int) -> bool:
        """End the session of a server process."""
        return bool(self.ask("SELECT pg_terminate_backend(%s)", pid)[0][0])

    def _kill_backend(self, fault: Fault) -> bool:
        """The server answers with a recovery, and ends every session."""
        pids = self._sessions("%")
        if not pids:
            return False
        try:
            os.kill(pids[int(fault.pick * len(pids))], signal.SIGKILL)
        except ProcessLookupError:
            return False  # it has ended since
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
        rows = self.ask(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND application_name LIKE %s ORDER BY backend_start, pid",
            application_name,
        )
        return [pid for (pid,) in rows]

    def ask(self, statement: str, value: Any) -> list[Any]:
        """The rows of a statement, from a server that may be recovering."""

        def answer() -> list[Any] | None:
            try:
                with psycopg.connect(self._server.dsn, autocommit=True) as connection:
                    return [connection.execute(statement, [value]).fetchall()]
            except psycopg.OperationalError:
                return None  # it recovers from the last fault

        found: list[Any] = eventually(answer)[0]  # type: ignore[index]
        return found


def acts_on(proxy: Proxy) -> dict[str, Callable[[Fault], bool]]:
    """What is done to connections on their way to the server."""
    return {
        "reset a connection": lambda fault: proxy.reset(fault.pick),
        "stall a connection": lambda fault: proxy.stall(fault.pick, fault.length),
        "half-open a connection": lambda fault: proxy.half_open(fault.pick, 3 * fault.length),
        "cut all connections": lambda fault: proxy.cut(fault.length),
        "swallow an answer": lambda _: proxy.swallow(b"", 3.0),
        "swallow the answer to a commit": lambda _: proxy.swallow(COMMITTED, 3.0),
    }
