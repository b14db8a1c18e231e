"""A hit of fixed windows that are open: most hits are, and one UPDATE decides them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import LiteralString

from pgsync.database.arrays import array_of
from pgsync.database.calls import Prepared, Row
from pgsync.limits.calls import Grant
from pgsync.limits.decision import Decision, Ticket
from pgsync.limits.declared import Limit

__all__ = ["OpenWindows"]

# What the first statement of pgsync.rate_limit_take does (sql/api/2_limits_hit.sql), where the
# window has not ended and the limit is that of its last hit; without a row it has decided nothing.
# The condition is looked at before the row is locked, and again where another has changed it.
_ONE: LiteralString = (
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

# The same of several: all locked in their one order, all judged, and all written or none.
_SEVERAL: LiteralString = (
    "WITH locked AS MATERIALIZED ("
    " SELECT c.resets_at > pgsync.clock() AND c.hits + $3::bigint <= c.max_hits"
    " AND c.max_hits = coalesce((SELECT o.max FROM pgsync.rate_limit_override AS o"
    " WHERE o.key = $1 AND o.per = c.per),"
    " ($4::integer[])[array_position($2::interval[], c.per)])"
    " AND (c.last_slot_at > pgsync.clock()) IS NOT TRUE AS has_room"
    " FROM pgsync.rate_limit_counter AS c"
    " WHERE c.key = $1::text AND c.per = ANY ($2) AND c.algorithm = 'fixed'"
    " ORDER BY c.per FOR UPDATE OF c"
    ") UPDATE pgsync.rate_limit_counter AS c SET hits = c.hits + $3"
    " WHERE c.key = $1 AND c.per = ANY ($2) AND c.algorithm = 'fixed'"
    " AND (SELECT count(*) FILTER (WHERE l.has_room) FROM locked AS l) = cardinality($2)"
    " AND NOT EXISTS (SELECT FROM pgsync.rate_limit_penalty AS p"
    " WHERE p.key = $1 AND p.until > pgsync.clock())"
    " RETURNING c.hits, c.max_hits, c.resets_at, pgsync.clock(),"
    " set_config('synchronous_commit', $5::text, true), c.per"
)

_INTERVAL = Struct("!qii")
_INTEGER = Struct("!i")
_COUNT = Struct("!q")
_ANSWER = Struct("!qqqq")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class OpenWindows:
    """The windows of a key that was asked for before, so that the server takes its name."""

    __slots__ = ("_commit", "_cost", "_key", "_lengths", "_limits", "_once")

    def __init__(self, key: str, limits: Sequence[Limit], cost: int, *, durable: bool) -> None:
        self._key = key
        self._limits = limits
        self._lengths = [_INTERVAL.pack(limit.per // _MICROSECOND, 0, 0) for limit in limits]
        self._cost = cost
        self._commit = b"on" if durable else b"off"
        self._once = self._taking(1)

    def taking(self, times: int) -> Prepared[Grant]:
        """Take so many times, all or none; no row where a window has ended, or is full."""
        return self._once if times == 1 else self._taking(times)

    def _taking(self, times: int) -> Prepared[Grant]:
        count = _COUNT.pack(self._cost * times)
        most = [_INTEGER.pack(limit.max) for limit in self._limits]
        if len(self._limits) == 1:
            return Prepared(
                "take_of_open_window",
                _ONE,
                (self._key.encode(), self._lengths[0], count, most[0], self._commit),
                lambda rows: self._granted(times, 0, [_ANSWER.unpack(b"".join(rows[0][:4]))]),
            )
        return Prepared(
            "take_of_open_windows",
            _SEVERAL,
            (
                self._key.encode(),
                array_of("interval", self._lengths),
                count,
                array_of("int4", most),
                self._commit,
            ),
            lambda rows: self._granted_of_all(times, rows),
        )

    def _granted_of_all(self, times: int, rows: Sequence[Sequence[bytes]]) -> Grant:
        answers = {row[5]: _ANSWER.unpack(b"".join(row[:4])) for row in rows}
        windows = [answers[length] for length in self._lengths]

        def tightness(place: int) -> tuple[int, int]:
            """As pgsync.judge_limits: of full ones that which opens last, else the fullest."""
            hits, quota, ends, _ = windows[place]
            return (ends if hits >= quota else 0), hits - quota

        return self._granted(times, max(range(len(windows)), key=tightness), windows)

    def _granted(self, times: int, binding: int, windows: Sequence[Row]) -> Grant:
        hits, quota, ends, now = windows[binding]
        decision = Decision(
            True,
            quota - hits,
            0.0,
            _EPOCH + timedelta(0, 0, ends),
            self._limits[binding],
            max(0.0, (ends - now) / 1e6),
            quota,
            self._key,
            self._cost,
            Ticket(_EPOCH + timedelta(0, 0, now), tuple([window[0] for window in windows])),
        )
        first = min([window[2] for window in windows])
        return Grant(times, decision, max(0.0, (first - now) / 1e6))
