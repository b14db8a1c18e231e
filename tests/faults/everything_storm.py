"""All kinds of faults among all kinds of processes, on their way to the server, and to it.

Faults that use something up hold it for a while, and nothing else happens meanwhile; the others
come on top of each other.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import psycopg

from pgsync import ConnectionFailed
from tests.eventually import eventually
from tests.faults.crew import Crews
from tests.faults.pair import Node, Pair, kill_for_good, signal_postmaster
from tests.faults.proxy import Proxy
from tests.faults.storm import Fault, Storm, acts_on, plan

__all__ = ["FULL_DISK", "KINDS", "EverythingStorm", "all_faults"]

FULL_DISK = "fill the disk"

KINDS = {
    "kill a process": 4,
    "freeze a process": 4,
    "start with a wrong clock": 2,
    "end any session": 4,
    "kill -9 a backend": 0.5,
    "kill the primary": 0.5,
    "immediate shutdown": 0.5,
    "restart the primary": 0.5,
    "fail over from a dead primary": 0.5,
    "promote over a living primary": 0.5,
    "kill the standby": 0.5,
    "reset a connection": 3,
    "stall a connection": 3,
    "half-open a connection": 3,
    "swallow an answer": 2,
    "swallow the answer to a commit": 2,
    "cut all connections": 1,
    FULL_DISK: 0.5,
    "use up the connections": 1,
    "use up the locks": 1,
}
"""How often each kind comes, beside the others."""

_WITHIN = 120.0  # seconds in which a server is back, on a loaded machine
_NO_ROOM = b"No space left on device"
_ROOM_FOR_LOCKS = 1000


def all_faults(seed: str, kinds: Collection[str], calm: float) -> Iterator[Fault]:
    """Faults of these kinds in the order of the seed; ``calm`` is by what the pauses are longer
    than those of other storms, since processes and servers take seconds to come back."""
    weights = {kind: weight for kind, weight in KINDS.items() if kind in kinds}
    return (replace(fault, pause=fault.pause * calm) for fault in plan(seed, 1.0, weights))


class EverythingStorm(Storm):
    """A storm over a pair of servers behind a proxy, and all who use it."""

    def __init__(self, pair: Pair, proxy: Proxy, crews: Crews, faults: Iterator[Fault]) -> None:
        super().__init__(pair.primary.server, crews, faults)
        self._pair = pair
        self._proxy = proxy
        self._crews = crews
        self.acts |= {
            "kill a process": self.acts["kill a worker"],
            "freeze a process": self.acts["freeze a worker"],
            "start with a wrong clock": self._set_clock,
            "end any session": lambda fault: self.end("%", fault),
            "kill the primary": lambda _: self._restart(pair.primary, signal.SIGKILL),
            "restart the primary": lambda _: self._restart(pair.primary, signal.SIGINT),
            "immediate shutdown": lambda _: self._restart(pair.primary, signal.SIGQUIT),
            "fail over from a dead primary": self._fail_over,
            "promote over a living primary": self._promote_over,
            "kill the standby": lambda _: self._restart(pair.standby, signal.SIGKILL),
            **acts_on(proxy),
            FULL_DISK: self._fill_disk,
            "use up the connections": self._use_up_connections,
            "use up the locks": self._use_up_locks,
        }

    def _set_clock(self, fault: Fault) -> bool:
        """By up to twelve hours, before or behind."""
        self._crews.kill(self.any_place(fault), clock=(fault.length - 1.55) / 0.45 * 12 * 3600)
        return True

    def _restart(self, node: Node, number: signal.Signals) -> bool:
        """End its postmaster, and see it come back, by itself or not."""
        pid = signal_postmaster(node, number)
        eventually(lambda: node.server.status().pid != pid, within=_WITHIN)
        _revive(node)
        return True

    def _fail_over(self, fault: Fault) -> bool:
        """Nobody has the primary any more when its standby takes over."""
        eventually(self._pair.in_step, within=_WITHIN)
        kill_for_good(self._pair.primary)
        old = self._pair.promote()
        self._follow()
        old.drop()
        self._pair.make_standby()
        return True

    def _promote_over(self, fault: Fault) -> bool:
        """Who is connected to the old primary stays with it for a while, and knows nothing."""
        eventually(self._pair.in_step, within=_WITHIN)
        old = self._pair.promote()
        self._follow()
        self.rest(fault.length)
        kill_for_good(old)
        old.drop()
        self._pair.make_standby()
        return True

    def _follow(self) -> None:
        self._server = self._pair.primary.server
        self._proxy.lead_to(self._pair.primary.dsn)

    def _fill_disk(self, fault: Fault) -> bool:
        """Until the server has met it, which then may not even be able to recover."""
        node = self._pair.primary
        assert node.disk is not None
        log = node.folder / "server.log"
        size = log.stat().st_size
        node.disk.fill()
        until = time.monotonic() + 5 * fault.length
        met = False
        while not met and time.monotonic() < until:
            self.rest(0.1)
            met = _NO_ROOM in log.read_bytes()[size:]
        self.rest(fault.length)
        node.disk.free()
        _revive(node)
        return met

    def _use_up_connections(self, fault: Fault) -> bool:
        """Strangers take all there are, and those that one of ours gives back."""
        with ExitStack() as strangers:
            until, met = time.monotonic() + _WITHIN, False
            while time.monotonic() < until:
                try:
                    connection = psycopg.connect(self._pair.primary.dsn)
                except psycopg.OperationalError:
                    if not met:
                        until, met = time.monotonic() + fault.length, True
                    self.rest(0.05)
                else:
                    strangers.callback(connection.close)
        return met

    def _use_up_locks(self, fault: Fault) -> bool:
        """A stranger takes advisory locks until the server has room for none."""
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(self._pair.primary.dsn, autocommit=True) as stranger,
        ):
            taken = 0
            for size in (_ROOM_FOR_LOCKS, 10, 1):
                with suppress(psycopg.errors.OutOfMemory):
                    while True:
                        stranger.execute(
                            "SELECT pg_advisory_lock(-n)"
                            " FROM generate_series(%s::bigint, %s::bigint) AS n",
                            [taken + 1, taken + size],
                        )
                        taken += size
            self.rest(fault.length)
            return True
        return False


def _revive(node: Node) -> None:
    """See to it that it runs: its supervisor gives up after some crashes within a minute."""

    def runs() -> bool:
        try:
            node.server.start()
        except ConnectionFailed:
            return False
        return True

    eventually(runs, within=_WITHIN)
