"""The usual tries, waits and releases of locks: by statements that the session keeps prepared.

What they ask is what :mod:`pgsync.locks.calls` asks, in less time of both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct

from pgsync.database.arrays import array_of
from pgsync.database.calls import Prepared
from pgsync.locks.calls import Grant
from pgsync.locks.held import LockRequest

__all__ = ["acquire_usual_lock", "exchange_usual_locks", "is_usual", "release_usual_lock"]

_INTERVAL = Struct("!qii")
_NUMBER, _PLACE = Struct("!q"), Struct("!i")
_TRUE, _FALSE = b"\1", b"\0"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def is_usual(request: LockRequest) -> bool:
    """Whether these statements can ask for it."""
    return request.mode == "exclusive" and request.delay is None


def acquire_usual_lock(request: LockRequest, patience: timedelta = timedelta()) -> Prepared[Grant]:
    """As ``acquire_lock``. Refused by the server, too, it must be abandoned."""
    return Prepared(
        "acquire_usual_lock",
        "SELECT l.acquired, l.token, l.holder, l.acquired_at, l.expires_at, l.waited, l.obstacle"
        " FROM pgsync.acquire_usual_lock($1::text, $2::interval, $3::text, $4::boolean,"
        " $5::interval) AS l",
        (
            _text(request.name),
            _interval(request.ttl),
            _text(request.owner),
            _truth(request.audited),
            _interval(patience),
        ),
        lambda rows: _grant(rows[0]),
    )


def release_usual_lock(token: int) -> Prepared[bool]:
    """As ``release_lock``."""
    return Prepared(
        "release_usual_lock",
        "SELECT pgsync.release_usual_lock($1::bigint)",
        (_NUMBER.pack(token),),
        lambda rows: rows[0][0] == _TRUE,
    )


def exchange_usual_locks(
    released: Sequence[int], wanted: Sequence[LockRequest]
) -> Prepared[list[tuple[int, Grant]]]:
    """As ``exchange_locks``. Refused by the server, too, what it asked for must be abandoned."""
    return Prepared(
        "exchange_usual_locks",
        "SELECT x.acquired, x.token, x.holder, x.acquired_at, x.expires_at, x.waited, x.obstacle,"
        " x.place FROM pgsync.exchange_locks($1::bigint[], $2::text[], $3::interval[], $4::text[],"
        " array_fill('exclusive'::text, ARRAY[cardinality($2)]), '{}', '{}', $5::boolean[]) AS x",
        (
            array_of("int8", [_NUMBER.pack(token) for token in released]),
            array_of("text", [_text(request.name) for request in wanted]),
            array_of("interval", [_interval(request.ttl) for request in wanted]),
            array_of("text", [_text(request.owner) for request in wanted]),
            array_of("bool", [_truth(request.audited) for request in wanted]),
        ),
        lambda rows: [(_PLACE.unpack(row[7])[0], _grant(row[:7])) for row in rows],
    )


def _text(value: str) -> bytes:
    # What is no Unicode is refused by the server, and then asked in the ordinary way.
    return value.encode("utf-8", "surrogatepass")


def _truth(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _interval(duration: timedelta) -> bytes:
    # Days by themselves: the longest there are would not fit as microseconds.
    return _INTERVAL.pack((duration - timedelta(duration.days)) // _MICROSECOND, duration.days, 0)


def _grant(columns: Sequence[bytes]) -> Grant:
    acquired, token, holder, acquired_at, expires_at, waited, obstacle = columns
    microseconds, days, _months = _INTERVAL.unpack(waited) if waited else (0, 0, 0)
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
