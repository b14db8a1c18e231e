"""The usual try, and release, of a single lock: by statements that the session keeps prepared.

They ask the same functions as :mod:`pgsync.locks.calls`, in a third less time for a lone caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct

from pgsync.database.calls import Prepared
from pgsync.locks.calls import Grant
from pgsync.locks.held import LockRequest

__all__ = ["is_usual", "release_usual_lock", "try_usual_lock"]

_INTERVAL = Struct("!qii")
_NUMBER = Struct("!q")
_TRUE, _FALSE = b"\1", b"\0"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def is_usual(request: LockRequest) -> bool:
    """Whether :func:`try_usual_lock` can ask for it."""
    return request.mode == "exclusive" and request.delay is None


def try_usual_lock(request: LockRequest) -> Prepared[Grant]:
    """As ``acquire_lock`` without patience. Refused by the server, too, it must be abandoned."""
    return Prepared(
        "try_usual_lock",
        "SELECT l.acquired, l.token, l.holder, l.acquired_at, l.expires_at, l.waited, l.obstacle"
        " FROM pgsync.acquire_lock($1::text, $2::interval, $3::text, 'exclusive', NULL, NULL,"
        " $4::boolean, '0', false) AS l",
        (
            # What is no Unicode is refused by the server, and then asked in the ordinary way.
            request.name.encode("utf-8", "surrogatepass"),
            _interval(request.ttl),
            request.owner.encode("utf-8", "surrogatepass"),
            _TRUE if request.audited else _FALSE,
        ),
        _grant,
    )


def release_usual_lock(token: int) -> Prepared[bool]:
    """As ``release_lock``."""
    return Prepared(
        "release_usual_lock",
        "SELECT pgsync.release_lock($1::bigint)",
        (_NUMBER.pack(token),),
        lambda rows: rows[0][0] == _TRUE,
    )


def _interval(duration: timedelta) -> bytes:
    # Days by themselves: the longest there are would not fit as microseconds.
    return _INTERVAL.pack((duration - timedelta(duration.days)) // _MICROSECOND, duration.days, 0)


def _grant(rows: Sequence[Sequence[bytes]]) -> Grant:
    acquired, token, holder, acquired_at, expires_at, waited, obstacle = rows[0]
    microseconds, days, _months = _INTERVAL.unpack(waited)
    return Grant(
        acquired == _TRUE,
        _NUMBER.unpack(token)[0] if token else None,
        holder.decode() or None,
        _moment(acquired_at),
        _moment(expires_at),
        timedelta(days, 0, microseconds),
        obstacle.decode() or None,
    )


def _moment(value: bytes) -> datetime | None:
    return _EPOCH + timedelta(0, 0, _NUMBER.unpack(value)[0]) if value else None
