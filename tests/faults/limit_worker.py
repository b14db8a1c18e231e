"""One process of the fault harness that hits limits, and notes what they let pass."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import psycopg

from pgsync import ConnectionFailed, Coordinator, Limit, LockCapacityError, OutcomeUnknown
from tests.faults.history import History
from tests.faults.ledger import Event
from tests.faults.process import Orders, begin

__all__ = ["LimitOrders", "check_limits"]

_MOST = {"alone": 15, "leased": 40}
_SECONDS = 2
_KEYS = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class LimitOrders(Orders):
    """What a process is told; ``pause`` is between two hits, in seconds."""

    pause: float = 0.02


def check_limits(history: list[Event]) -> list[str]:
    """What is wrong, in sentences: no window lets pass more than its limit."""
    passed = Counter(
        (event["limiter"], event["key"], event["window"])
        for event in history
        if event["event"] == "passed"
    )
    exceeded = [(*window, times) for window, times in passed.items() if times > _MOST[window[0]]]
    return [f"{len(exceeded)} windows let pass too many: {exceeded[:5]}"] if exceeded else []


def main(orders: LimitOrders) -> None:
    """Hit limits whose counts survive the server, until SIGTERM."""
    stop = begin()
    history = History(orders.history)
    rng = random.Random(orders.seed)
    with Coordinator(orders.dsn) as sync:
        limiters = [
            sync.limiter("alone", Limit(_MOST["alone"], per=_SECONDS), durable=True),
            sync.limiter("leased", Limit(_MOST["leased"], per=_SECONDS), durable=True, lease=5),
        ]
        while not stop.wait(orders.pause):
            limiter, key = rng.choice(limiters), rng.choice(_KEYS)
            try:
                decision = limiter.hit(key)
            except (ConnectionFailed, OutcomeUnknown, LockCapacityError, psycopg.Error) as error:
                history.add("undecided", error=type(error).__name__)
                stop.wait(0.1)
                continue
            if decision:
                window = decision.resets_at.isoformat()
                history.add("passed", limiter=limiter.name, key=key, window=window)
            else:
                history.add("denied")


if __name__ == "__main__":
    main(LimitOrders.given())
