"""The calls of locks: each is one SQL function of ``sql/api/1_locks.sql``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgsync.database.calls import Call, Listing, Row, in_utc, moment, nothing, scalar
from pgsync.errors import InvalidArgument

__all__ = [
    "Grant",
    "LockInfo",
    "abandon_lock",
    "assert_lock",
    "check_name",
    "force_unlock",
    "list_locks",
    "lock_key",
    "renew_lock",
    "try_lock",
    "unlock",
    "wait_lock",
]


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a try: the new holder's, or (not acquired) the present holder's.

    ``waited`` is how long the server held the request before it granted the lock.
    """

    acquired: bool
    token: int | None
    holder: str | None
    acquired_at: datetime | None
    expires_at: datetime | None
    waited: timedelta = timedelta()


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
    pid: int


def lock_key(name: str) -> int:
    """The advisory lock of a name: the first 8 bytes of sha256, signed, big-endian."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def check_name(name: str) -> str:
    """Return the name if the server can take it.

    Raises:
        InvalidArgument: if it is empty, over 1024 bytes in UTF-8, or not text that it can store.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument("a lock's name must be text that is not empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(
            "a lock's name must be Unicode text without lone surrogates"
        ) from None
    if size > 1024:
        raise InvalidArgument(f"a lock's name must have at most 1024 bytes, this has {size}")
    if "\0" in name:
        raise InvalidArgument("a lock's name must not contain NUL")
    return name


def try_lock(name: str, ttl: timedelta, owner: str) -> Call[Grant]:
    """Take the lock for the session that runs this, or learn who has it."""
    return Call(
        "SELECT t.acquired, t.token, t.holder, t.acquired_at, t.expires_at"
        " FROM pgsync.try_lock(%(name)s, %(ttl)s, %(owner)s) AS t",
        {"name": name, "ttl": ttl, "owner": owner},
        _grant,
    )


def wait_lock(name: str, ttl: timedelta, owner: str, patience: timedelta) -> Call[Grant]:
    """As :func:`try_lock`, waiting in the server's queue for at most ``patience``."""
    return Call(
        "SELECT t.acquired, t.token, t.holder, t.acquired_at, t.expires_at, t.waited"
        " FROM pgsync.wait_lock(%(name)s, %(ttl)s, %(owner)s, %(patience)s) AS t",
        {"name": name, "ttl": ttl, "owner": owner, "patience": patience},
        _grant,
    )


def renew_lock(name: str, token: int, ttl: timedelta) -> Call[datetime | None]:
    """Move the deadline to ``ttl`` from now; None where the token holds the lock no more."""
    return Call(
        "SELECT pgsync.renew_lock(%(name)s, %(token)s, %(ttl)s)",
        {"name": name, "token": token, "ttl": ttl},
        moment,
    )


def unlock(name: str, token: int) -> Call[bool]:
    """Release the lock; False where the token does not hold it in this session."""
    return Call("SELECT pgsync.unlock(%(name)s, %(token)s)", {"name": name, "token": token}, scalar)


def abandon_lock(name: str) -> Call[bool]:
    """Release what an interrupted try may have been granted in this session."""
    return Call("SELECT pgsync.abandon_lock(%(name)s)", {"name": name}, scalar)


def force_unlock(name: str) -> Call[bool]:
    """Take the lock from whoever holds it, by ending their session; False where nobody does."""
    return Call("SELECT pgsync.force_unlock(%(name)s)", {"name": name}, scalar)


def assert_lock(name: str, token: int) -> Call[None]:
    """In the transaction that the lock protects: fail unless the token holds the lock."""
    return Call(
        "SELECT pgsync.assert_lock(%(name)s, %(token)s)", {"name": name, "token": token}, nothing
    )


def list_locks() -> Listing[LockInfo]:
    """The locks held now, over all sessions."""
    return Listing(
        "SELECT l.name, l.mode, l.owner, l.token, l.acquired_at, l.expires_at, l.waiting, l.pid"
        " FROM pgsync.locks AS l ORDER BY l.name",
        {},
        lambda row: LockInfo(*in_utc(row)),
    )


def _grant(row: Row) -> Grant:
    return Grant(*in_utc(row))
