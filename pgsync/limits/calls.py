"""The calls of rate limits: each is one SQL function of ``sql/api/2_limits_*.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple

from pgsync.database.calls import Call, Listing, Row, in_utc, moment, nothing, scalar
from pgsync.errors import InvalidArgument
from pgsync.limits.decision import Decision, Ticket
from pgsync.limits.declared import LimitSet

__all__ = [
    "Grant",
    "LimitSetting",
    "LimitState",
    "cancel_wait",
    "check_cost",
    "clear",
    "list_settings",
    "peek",
    "penalised_for",
    "penalize",
    "refund",
    "reserve",
    "set_limit",
    "settle",
    "states_of",
    "take",
    "unset_limit",
    "wait_for",
]


class Grant(NamedTuple):
    """What the database granted: ``decision`` speaks of the last of ``times``.

    ``lasts``: seconds from then until the first of the windows ends that it counts in. ``number``:
    of the waiter, or of the reservation.
    """

    times: int
    decision: Decision
    lasts: float
    number: int | None = None


def _commit(durable: bool) -> str:
    """How the call's own transaction commits, and no other.

    Off: without waiting for the disk, so that a crash of the server may forget the hits of its last
    fraction of a second.
    """
    return "on" if durable else "off"


def take(
    key: str,
    limits: LimitSet,
    cost: int,
    times: int = 1,
    *,
    durable: bool = False,
    shadow: bool = False,
) -> Call[Grant]:
    """Take ``cost`` permits from every limit of the key, all or nothing, up to ``times`` times."""
    only = None if shadow else limits.only
    parameters = {
        "key": key,
        **(only or limits.arguments),
        "cost": cost,
        "times": times,
        "commit": _commit(durable),
    }

    def read(row: Row) -> Grant:
        times, *facts, lasts = in_utc(row)
        decision = _decision(key, limits, cost, times > 0, facts)
        return Grant(times, decision, lasts.total_seconds() if times else 0.0)

    return Call(_SHADOW if shadow else _TAKE_ONE if only else _TAKE, parameters, read)


# A function in the select list, and not in FROM, is spared a store for its rows; OFFSET 0 has it
# called once.
_TAKE: LiteralString = (
    "SELECT (t.d).granted, (t.d).remaining, (t.d).retry_after, (t.d).resets_at,"
    " (t.d).resets_at - pgsync.clock(), (t.d).binding, (t.d).quota, (t.d).taken_at, (t.d).marks,"
    " (t.d).valid_until - (t.d).taken_at"
    " FROM (SELECT set_config('synchronous_commit', %(commit)s, true),"
    " pgsync.rate_limit_take(%(key)s, %(max)s::integer[], %(per)s::interval[], %(cost)s,"
    " %(times)s, %(algorithm)s::text[], %(burst)s::integer[]) AS d OFFSET 0) AS t"
)
_TAKE_ONE: LiteralString = _TAKE.replace("[]", "")
_SHADOW: LiteralString = _TAKE.replace("rate_limit_take", "rate_limit_shadow")


def peek(key: str, limits: LimitSet, cost: int) -> Call[Decision]:
    """What :func:`take` would answer now; takes nothing."""
    return Call(
        "SELECT d.allowed, d.remaining, d.retry_after, d.resets_at, d.resets_at - pgsync.clock(),"
        " d.binding, d.quota, NULL, NULL"
        " FROM pgsync.rate_limit_peek(%(key)s, %(max)s::integer[], %(per)s::interval[], %(cost)s,"
        " %(algorithm)s::text[], %(burst)s::integer[]) AS d",
        {"key": key, **limits.arguments, "cost": cost},
        lambda row: _decision(key, limits, cost, row[0], list(in_utc(row)[1:])),
    )


def wait_for(
    key: str, limits: LimitSet, cost: int, patience: timedelta, *, durable: bool = False
) -> Call[Grant]:
    """Take permits, or have them promised for a moment that is ``retry_after`` seconds away."""

    def read(row: Row) -> Grant:
        allowed, number, *facts = in_utc(row)
        return Grant(int(allowed), _decision(key, limits, cost, allowed, facts), 0.0, number)

    return Call(
        "SELECT d.allowed, d.waiter, d.remaining, d.retry_after, d.resets_at,"
        " d.resets_at - pgsync.clock(), d.binding, d.quota, d.taken_at, d.marks"
        " FROM set_config('synchronous_commit', %(commit)s, true) AS s,"
        " pgsync.rate_limit_acquire(%(key)s, %(max)s::integer[], %(per)s::interval[], %(cost)s,"
        " %(patience)s, %(algorithm)s::text[], %(burst)s::integer[]) AS d",
        {
            "key": key,
            **limits.arguments,
            "cost": cost,
            "patience": patience,
            "commit": _commit(durable),
        },
        read,
    )


def cancel_wait(number: int) -> Call[bool]:
    """Take back what a waiter was promised; False where its moment has come."""
    return Call("SELECT pgsync.rate_limit_cancel_wait(%(number)s)", {"number": number}, scalar)


def penalised_for(key: str) -> Call[float]:
    """How many seconds a penalty closes the key still; 0 where none does."""
    return Call(
        "SELECT pgsync.rate_limit_penalised_until(%(key)s) - pgsync.clock()",
        {"key": key},
        lambda row: 0.0 if row[0] is None else max(0.0, row[0].total_seconds()),
    )


def refund(key: str, limits: LimitSet, cost: int, ticket: Ticket) -> Call[bool]:
    """Give permits back; False where all have left their windows already."""
    return Call(
        "SELECT pgsync.rate_limit_refund(%(key)s, %(per)s::interval[], %(cost)s, %(taken_at)s,"
        " %(marks)s, %(algorithm)s::text[])"
        " FROM set_config('synchronous_commit', 'off', true) AS s",
        {
            "key": key,
            "per": limits.arguments["per"],
            "algorithm": limits.arguments["algorithm"],
            "cost": cost,
            "taken_at": ticket.taken_at,
            "marks": list(ticket.marks),
        },
        scalar,
    )


def reserve(
    key: str, limits: LimitSet, cost: int, ttl: timedelta, *, durable: bool = False
) -> Call[Grant]:
    """Take permits for a cost that is known only afterwards."""

    def read(row: Row) -> Grant:
        times, number, *facts = in_utc(row)
        return Grant(times, _decision(key, limits, cost, times > 0, facts), 0.0, number)

    return Call(
        "SELECT (r.decision).granted, r.reservation, (r.decision).remaining,"
        " (r.decision).retry_after, (r.decision).resets_at,"
        " (r.decision).resets_at - pgsync.clock(), (r.decision).binding, (r.decision).quota,"
        " (r.decision).taken_at, (r.decision).marks"
        " FROM set_config('synchronous_commit', %(commit)s, true) AS s,"
        " pgsync.rate_limit_reserve(%(key)s, %(max)s::integer[], %(per)s::interval[], %(cost)s,"
        " %(ttl)s, %(algorithm)s::text[], %(burst)s::integer[]) AS r",
        {
            "key": key,
            **limits.arguments,
            "cost": cost,
            "ttl": ttl,
            "commit": _commit(durable),
        },
        read,
    )


def settle(number: int, cost: int) -> Call[bool]:
    """Say what a reservation cost in the end; False where it was settled or has expired."""
    return Call(
        "SELECT pgsync.rate_limit_settle(%(number)s, %(cost)s)"
        " FROM set_config('synchronous_commit', 'off', true) AS s",
        {"number": number, "cost": cost},
        scalar,
    )


def penalize(key: str, until: timedelta | datetime, reason: str) -> Call[datetime]:
    """Close the key for everybody, for a while or until a moment; never shortens a penalty."""
    if isinstance(until, timedelta):
        statement = "SELECT pgsync.rate_limit_penalize(%(key)s, %(until)s, %(reason)s::text)"
    else:
        statement = "SELECT pgsync.rate_limit_penalize_until(%(key)s, %(until)s, %(reason)s::text)"
    return Call(statement, {"key": key, "until": until, "reason": reason}, moment)


def clear(key: str) -> Call[None]:
    """Forget the hits, the promises to waiters and the penalty of the key."""
    return Call("SELECT pgsync.rate_limit_clear(%(key)s)", {"key": key}, nothing)


def set_limit(
    key: str, max: int, per: timedelta, burst: int | None, by: str | None, why: str | None
) -> Call[None]:
    """Set a limit for one key, in place of what callers state for that window."""
    return Call(
        "SELECT pgsync.set_limit(%(key)s, %(max)s::integer, %(per)s, %(burst)s::integer,"
        " %(by)s::text, %(why)s::text)",
        {"key": key, "max": max, "per": per, "burst": burst, "by": by, "why": why},
        nothing,
    )


def unset_limit(key: str, per: timedelta, by: str | None) -> Call[bool]:
    """Let the callers' own limit hold again; False where none was set."""
    return Call(
        "SELECT pgsync.unset_limit(%(key)s, %(per)s, %(by)s::text)",
        {"key": key, "per": per, "by": by},
        scalar,
    )


@dataclass(frozen=True, slots=True)
class LimitSetting:
    """A limit that is set for one key. ``burst`` is of a token bucket; None goes with ``max``."""

    key: str
    per: timedelta
    max: int
    burst: int | None
    set_at: datetime
    set_by: str
    reason: str | None


def list_settings() -> Listing[LimitSetting]:
    """The limits that are set for single keys."""
    return Listing(
        "SELECT o.key, o.per, o.max, o.burst, o.set_at, o.set_by, o.reason"
        " FROM pgsync.limit_overrides AS o ORDER BY o.key, o.per",
        {},
        lambda row: LimitSetting(*in_utc(row)),
    )


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit of a key as it stands; ``algorithm`` and ``per`` are None of a bare penalty.

    ``state`` is open, full or penalised; ``hits`` are the permits taken that count now, ``fill``
    their share of ``max`` (of a token bucket, of ``burst``). ``opens_at``: when one permit is free;
    None where one is. ``waiting``: how many wait for theirs. ``is_set``: by ``set_limit``.
    ``shadowed``: how many shadow mode let pass that it would have refused. Times are in UTC.
    """

    key: str
    algorithm: str | None
    per: timedelta | None
    state: str
    hits: int | None
    max: int | None
    burst: int | None
    fill: float | None
    remaining: int
    opens_at: datetime | None
    resets_at: datetime
    waiting: int
    is_set: bool
    shadowed: int
    penalised_until: datetime | None
    penalty_reason: str | None


def states_of(key: str) -> Listing[LimitState]:
    """The limits of a key, first what binds: the one that opens last, then the fullest."""
    return Listing(
        "SELECT l.key, l.algorithm, l.per, l.state, l.hits, l.max, l.burst, l.fill::float8,"
        " l.remaining, l.opens_at, l.resets_at, l.waiting, l.is_set, l.shadowed,"
        " l.penalised_until, l.penalty_reason FROM pgsync.rate_limits AS l WHERE l.key = %(key)s"
        " ORDER BY l.opens_at DESC NULLS LAST, l.fill DESC, l.per",
        {"key": key},
        lambda row: LimitState(*in_utc(row)),
    )


def check_cost(cost: int, limits: LimitSet) -> int:
    """The cost, if it can work.

    Raises:
        InvalidArgument: if it cannot.
    """
    if isinstance(cost, bool) or not isinstance(cost, int):
        raise InvalidArgument(f"cost must be a whole number, not {cost!r}")
    if not 1 <= cost <= limits.most:
        why = "must be 1 or more" if cost < 1 else f"can never pass a limit of {limits.most}"
        raise InvalidArgument(f"a cost of {cost} {why}")
    return cost


def _decision(key: str, limits: LimitSet, cost: int, allowed: bool, facts: list[Any]) -> Decision:
    remaining, retry_after, resets_at, resets_after, binding, quota, taken_at, marks = facts
    return Decision(
        allowed,
        remaining,
        retry_after.total_seconds(),
        resets_at,
        limits.limits[binding - 1] if binding else None,
        max(0.0, resets_after.total_seconds()),
        quota,
        key,
        cost,
        None if taken_at is None else Ticket(taken_at, tuple(marks)),
    )
