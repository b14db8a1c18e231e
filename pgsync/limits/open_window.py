"""A hit of one fixed window that is open: most hits are, and one UPDATE decides them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import LiteralString

from pgsync.database.calls import Prepared
from pgsync.limits.calls import Grant
from pgsync.limits.decision import Decision, Ticket
from pgsync.limits.declared import Limit

__all__ = ["OpenWindow"]

# What the first statement of pgsync.rate_limit_take does (sql/api/2_limits_hit.sql), where the
# window has not ended and the limit is that of its last hit; without a row it has decided nothing.
# The condition is looked at before the row is locked, and again where another has changed it.
_STATEMENT: LiteralString = (
    "UPDATE pgsync.rate_limit_counter AS c SET hits = c.hits + $3::bigint"
    " WHERE c.key = $1::text AND c.per = $2::interval AND c.algorithm = 'fixed'"
    " AND c.resets_at > pgsync.clock() AND c.hits + $3::bigint <= c.max_hits"
    " AND c.max_hits = coalesce((SELECT o.max FROM pgsync.rate_limit_override AS o"
    " WHERE o.key = $1 AND o.per = $2), $4::integer)"
    " AND (c.last_slot_at > pgsync.clock()) IS NOT TRUE"
    " AND NOT EXISTS (SELECT FROM pgsync.rate_limit_penalty AS p"
    " WHERE p.key = $1 AND p.until > pgsync.clock())"
    " RETURNING c.hits, c.max_hits, c.resets_at, pgsync.clock(),"
    " set_config('synchronous_commit', $5::text, true)"
)

_INTERVAL = Struct("!qii")
_INTEGER = Struct("!i")
_COUNT = Struct("!q")
_ANSWER = Struct("!qqqq")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class OpenWindow:
    """The window of a key that has been asked for before, so that its name is one."""

    __slots__ = ("_cost", "_key", "_limit", "_once", "_parameters")

    def __init__(self, key: str, limit: Limit, cost: int, *, durable: bool) -> None:
        self._key = key
        self._limit = limit
        self._cost = cost
        self._parameters = (
            key.encode(),
            _INTERVAL.pack(limit.per // _MICROSECOND, 0, 0),
            _INTEGER.pack(limit.max),
            b"on" if durable else b"off",
        )
        self._once = self._taking(1)

    def taking(self, times: int) -> Prepared[Grant]:
        """Take so many times, all or none; no row where the window has ended, or is full."""
        return self._once if times == 1 else self._taking(times)

    def _taking(self, times: int) -> Prepared[Grant]:
        key, per, most, commit = self._parameters
        count = _COUNT.pack(self._cost * times)

        def read(row: Sequence[bytes]) -> Grant:
            hits, quota, ends, now = _ANSWER.unpack(b"".join(row[:4]))
            lasts = max(0.0, (ends - now) / 1e6)
            decision = Decision(
                True,
                quota - hits,
                0.0,
                _EPOCH + timedelta(0, 0, ends),
                self._limit,
                lasts,
                quota,
                self._key,
                self._cost,
                Ticket(_EPOCH + timedelta(0, 0, now), (hits,)),
            )
            return Grant(times, decision, lasts)

        return Prepared("take_of_open_window", _STATEMENT, (key, per, count, most, commit), read)
