"""The calls of locks: each is one SQL function of ``sql/api/1_locks*.sql``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgsync.database.calls import Call, Listing, Row, in_utc, moment, nothing, scalar
from pgsync.locks.held import LockRequest

__all__ = [
    "Grant",
    "LockExplanation",
    "LockInfo",
    "abandon_all_but",
    "abandon_lock",
    "acquire_lock",
    "ask_to_release",
    "assert_lock",
    "exchange_locks",
    "expire_lock",
    "explain_lock",
    "fence",
    "force_unlock",
    "hand_over_lock",
    "list_locks",
    "lock_key",
    "lock_transaction",
    "release_lock",
    "renew_lock",
    "requests_to_release",
    "restore_lock",
]


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a try: the new holder's, or (not acquired) the present holder's.

    ``waited`` is how long the server held the request before it granted the lock; ``obstacle`` says
    what else than the holder is in the way.
    """

    acquired: bool
    token: int | None
    holder: str | None
    acquired_at: datetime | None
    expires_at: datetime | None
    waited: timedelta = timedelta()
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class LockInfo:
    """A lock that is held now, as the view ``pgsync.locks`` shows it."""

    name: str
    mode: str
    owner: str
    token: int
    acquired_at: datetime
    expires_at: datetime
    waiting: int
    waiters: list[str]
    host: str | None
    pid: int | None
    handed_over: bool


@dataclass(frozen=True, slots=True)
class LockExplanation:
    """Why a lock is not free: the answer of ``pgsync.explain_lock``.

    ``state`` is ``free``, ``held``, ``expired``, ``handed over``, ``lost`` or ``held by a
    transaction``. Of many holders it tells of the one whose deadline comes first.
    """

    name: str
    state: str
    mode: str | None
    holders: int
    holder: str | None
    host: str | None
    pid: int | None
    token: int | None
    acquired_at: datetime | None
    age: timedelta | None
    expires_at: datetime | None
    remaining: timedelta | None
    waiters: list[str]
    freed_by: str


def lock_key(name: str) -> int:
    """The advisory lock of a name: the first 8 bytes of sha256, signed, big-endian."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def acquire_lock(
    request: LockRequest, patience: timedelta = timedelta(), *, resumed: bool = False
) -> Call[Grant]:
    """Take the lock for the session that runs this, or learn who has it.

    It waits in the server's queue for at most ``patience``; ``resumed`` if it has begun to wait in
    an earlier call. Whose call ends without an answer must abandon the lock.
    """
    return Call(
        "SELECT l.acquired, l.token, l.holder, l.acquired_at, l.expires_at, l.waited, l.obstacle"
        " FROM pgsync.acquire_lock(%(name)s, %(ttl)s, %(owner)s::text, %(mode)s, %(slots)s,"
        " %(delay)s, %(audited)s, %(patience)s, %(resumed)s) AS l",
        {
            "name": request.name,
            "ttl": request.ttl,
            "owner": request.owner,
            "mode": request.mode,
            "slots": request.slots,
            "delay": request.delay,
            "audited": request.audited,
            "patience": patience,
            "resumed": resumed,
        },
        _grant,
    )


def exchange_locks(
    released: Sequence[int], wanted: Sequence[LockRequest]
) -> Listing[tuple[int, Grant]]:
    """Many releases and tries in one round trip.

    Answers with the place of each: -1, -2... for the releases (``acquired`` if it was held), then
    1, 2... for the tries.
    """
    return Listing(
        "SELECT x.place, x.acquired, x.token, x.holder, x.acquired_at, x.expires_at, x.waited,"
        " x.obstacle FROM pgsync.exchange_locks(%(released)s::bigint[], %(names)s::text[],"
        " %(ttls)s::interval[], %(owners)s::text[], %(modes)s::text[], %(slots)s::integer[],"
        " %(delays)s::interval[], %(audited)s::boolean[]) AS x",
        {
            "released": list(released),
            "names": [request.name for request in wanted],
            "ttls": [request.ttl for request in wanted],
            "owners": [request.owner for request in wanted],
            "modes": [request.mode for request in wanted],
            "slots": [request.slots for request in wanted],
            "delays": [request.delay for request in wanted],
            "audited": [request.audited for request in wanted],
        },
        lambda row: (row[0], _grant(row[1:])),
    )


def renew_lock(name: str, token: int, ttl: timedelta) -> Call[datetime | None]:
    """Move the deadline to ``ttl`` from now; None where the token holds the lock no more."""
    return Call(
        "SELECT pgsync.renew_lock(%(name)s, %(token)s, %(ttl)s)",
        {"name": name, "token": token, "ttl": ttl},
        moment,
    )


def release_lock(token: int) -> Call[bool]:
    """Release the lock; False where the token does not hold it in this session."""
    return Call("SELECT pgsync.release_lock(%(token)s)", {"token": token}, scalar)


def expire_lock(token: int) -> Call[bool]:
    """Release a lock whose ttl has passed, by the clock of its holder, which runs out first."""
    return Call("SELECT pgsync.expire_lock(%(token)s)", {"token": token}, scalar)


def abandon_lock(name: str) -> Call[bool]:
    """Release what an interrupted call may have been granted in this session."""
    return Call("SELECT pgsync.abandon_lock(%(name)s)", {"name": name}, scalar)


def abandon_all_but(tokens: Sequence[int]) -> Call[int]:
    """Release every lock of this session but these, after an interrupted exchange."""
    return Call(
        "SELECT pgsync.abandon_all_but(%(tokens)s::bigint[])", {"tokens": list(tokens)}, scalar
    )


def hand_over_lock(token: int) -> Call[datetime | None]:
    """Leave the lock to whoever restores it by this token, until the time that is returned."""
    return Call("SELECT pgsync.hand_over_lock(%(token)s)", {"token": token}, moment)


def restore_lock(request: LockRequest, token: int) -> Call[Grant]:
    """Take a lock that was handed over with this token."""
    return Call(
        "SELECT r.acquired, r.new_token, r.holder, r.acquired_at, r.expires_at"
        " FROM pgsync.restore_lock(%(name)s, %(token)s::bigint, %(ttl)s, %(owner)s) AS r",
        {"name": request.name, "token": token, "ttl": request.ttl, "owner": request.owner},
        _grant,
    )


def lock_transaction(name: str, patience: timedelta, mode: str) -> Call[Grant]:
    """Take the lock until the transaction that this runs in ends, or learn who has it."""
    return Call(
        "SELECT t.acquired, NULL, t.holder, t.acquired_at, t.expires_at"
        " FROM pgsync.lock_transaction(%(name)s, %(patience)s, %(mode)s) AS t",
        {"name": name, "patience": patience, "mode": mode},
        _grant,
    )


def requests_to_release(tokens: Sequence[int]) -> Listing[tuple[int, str, str | None]]:
    """Which of these tokens' holders were asked to finish: the token, by whom, and why."""
    return Listing(
        "SELECT r.token, r.asked_by, r.asked_why"
        " FROM pgsync.requests_to_release(%(tokens)s::bigint[]) AS r",
        {"tokens": list(tokens)},
        lambda row: (row[0], row[1], row[2]),
    )


def ask_to_release(name: str, by: str, why: str | None) -> Call[int]:
    """Ask the holders to finish; returns how many were asked."""
    return Call(
        "SELECT pgsync.ask_to_release(%(name)s, %(by)s, %(why)s)",
        {"name": name, "by": by, "why": why},
        scalar,
    )


def force_unlock(name: str, by: str, why: str | None) -> Call[bool]:
    """Take the lock from whoever holds it, by ending their session; False where nobody does."""
    return Call(
        "SELECT pgsync.force_unlock(%(name)s, %(by)s, %(why)s)",
        {"name": name, "by": by, "why": why},
        scalar,
    )


def fence(resource: str, token: int) -> Call[None]:
    """Let the token pass if none higher has passed for the resource."""
    return Call(
        "SELECT pgsync.fence(%(resource)s, %(token)s::bigint)",
        {"resource": resource, "token": token},
        nothing,
    )


def assert_lock(name: str, token: int) -> Call[None]:
    """In the transaction that the lock protects: fail unless the token holds the lock."""
    return Call(
        "SELECT pgsync.assert_lock(%(name)s, %(token)s)", {"name": name, "token": token}, nothing
    )


def list_locks() -> Listing[LockInfo]:
    """The locks held now, over all sessions."""
    return Listing(
        "SELECT l.name, l.mode, l.owner, l.token, l.acquired_at, l.expires_at, l.waiting,"
        " l.waiters, l.host, l.pid, l.handed_over FROM pgsync.locks AS l"
        " ORDER BY l.name, l.acquired_at",
        {},
        lambda row: LockInfo(*in_utc(row)),
    )


def explain_lock(name: str) -> Call[LockExplanation]:
    """Why the lock is not free, and what would free it."""
    return Call(
        "SELECT e.state, e.mode, e.holders, e.holder, e.host, e.pid, e.token, e.acquired_at,"
        " e.age, e.expires_at, e.remaining, e.waiters, e.freed_by"
        " FROM pgsync.explain_lock(%(name)s) AS e",
        {"name": name},
        lambda row: LockExplanation(name, *in_utc(row)),
    )


def _grant(row: Row) -> Grant:
    return Grant(*in_utc(row))
