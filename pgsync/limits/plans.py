"""What a limiter does step by step: hit, lease, wait. Written once for both faces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from pgsync.database.calls import Call, Row, Sleep, Steps
from pgsync.errors import PgsyncError, RateLimited
from pgsync.limits import calls
from pgsync.limits.decision import Decision
from pgsync.limits.declared import Limit, LimitSet

__all__ = ["acquire_plan", "hit", "raise_unless_allowed", "wait_plan"]

# A sleep may end a little early by the server's clock, which is not this machine's.
_AFTER = 0.0005


def hit(key: str, limits: Sequence[Limit], cost: int) -> Call[Decision]:
    """Take ``cost`` permits from every limit of the key, all or nothing."""
    call = calls.take(key, LimitSet(limits, f"limit {key!r}"), cost)

    def read(row: Row) -> Decision:
        return call.read(row).decision

    return Call(call.statement, call.parameters, read)


def acquire_plan(key: str, limits: Sequence[Limit], cost: int, timeout: float) -> Steps[Decision]:
    """Plan: take permits, sleeping until they are there, for at most ``timeout`` seconds.

    Raises:
        RateLimited: at once where the wait would outlast the timeout.
    """
    limit_set = LimitSet(limits, f"limit {key!r}")
    return (yield from wait_plan(key, limit_set, calls.check_cost(cost, limit_set), timeout))


def wait_plan(
    key: str, limits: LimitSet, cost: int, timeout: float, *, durable: bool = False
) -> Steps[Decision]:
    """As :func:`acquire_plan`. No connection is held during the sleep.

    The permits are promised for a moment to come, in the order of asking; who is interrupted before
    gives them back. A penalty that came meanwhile holds up even those who were promised permits:
    they ask again.
    """
    deadline = time.monotonic() + timeout
    while True:
        patience = timedelta(seconds=max(0.0, deadline - time.monotonic()))
        grant = yield from calls.wait_for(key, limits, cost, patience, durable=durable)
        decision = raise_unless_allowed(grant.decision)
        if grant.number is None:
            return decision
        wait = decision.retry_after
        try:
            if time.monotonic() + wait > deadline:
                raise RateLimited(key, retry_after=wait, resets_at=decision.resets_at)
            yield from Sleep(wait + _AFTER)
        except GeneratorExit:
            raise
        except BaseException:
            with suppress(PgsyncError):
                yield from calls.cancel_wait(grant.number)
            raise
        closed_for = yield from calls.penalised_for(key)
        if not closed_for:
            return decision._replace(retry_after=0.0)
        if time.monotonic() + closed_for > deadline:
            raise RateLimited(key, retry_after=closed_for)


def raise_unless_allowed(decision: Decision) -> Decision:
    """The decision, if it allows.

    Raises:
        RateLimited: if not.
    """
    if not decision.allowed:
        raise RateLimited(
            decision.key, retry_after=decision.retry_after, resets_at=decision.resets_at
        )
    return decision
