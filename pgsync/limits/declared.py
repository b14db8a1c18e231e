"""Limits as they are declared: a fixed window, a sliding one, a token bucket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument

__all__ = ["Limit", "LimitSet", "SlidingWindow", "TokenBucket"]

_MOST = 2**31 - 1
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, init=False)
class Limit:
    """At most ``max`` permits in a window of ``per`` seconds (or a timedelta).

    The window is fixed: the first hit opens it, and it ends ``per`` later by the server's clock.
    """

    algorithm: ClassVar[str] = "fixed"

    max: int
    per: timedelta

    def __init__(self, max: int, per: Duration) -> None:
        object.__setattr__(self, "max", _count(max, "max"))
        object.__setattr__(self, "per", to_timedelta(per, "per"))

    def __str__(self) -> str:
        return f"{self.max} per {self.per.total_seconds():g} s"

    @property
    def most(self) -> int:
        """How many permits there are at most at once."""
        return self.max


class SlidingWindow(Limit):
    """At most ``max`` permits in a window of ``per`` seconds that moves with the clock.

    Two counts stand for it, of the current part and the one before, which counts by as much of it
    as lies within ``per`` of now: as if its hits had been spread evenly.
    """

    __slots__ = ()
    algorithm = "sliding"


@dataclass(frozen=True, slots=True, init=False)
class TokenBucket(Limit):
    """A bucket of ``burst`` permits into which ``max`` flow in ``per`` seconds, evenly.

    ``burst`` is ``max`` unless it is given. Decided by the generic cell rate algorithm (ITU-T
    I.371): any interval has at most ``burst`` permits and what flows in meanwhile.
    """

    algorithm: ClassVar[str] = "bucket"

    burst: int

    def __init__(self, max: int, per: Duration, burst: int | None = None) -> None:
        # slots=True makes a new class, of which super() without arguments knows nothing.
        Limit.__init__(self, max, per)
        object.__setattr__(self, "burst", self.max if burst is None else _count(burst, "burst"))

    def __str__(self) -> str:
        return f"{Limit.__str__(self)}, {self.burst} at once"

    @property
    def most(self) -> int:
        """How many permits there are at most at once."""
        return self.burst


class LimitSet:
    """The limits of a key, as the SQL functions take them: ``only`` where there is but one."""

    __slots__ = ("_hash", "arguments", "limits", "most", "only")

    def __init__(self, limits: Sequence[Limit], whose: str) -> None:
        if not limits or not all(isinstance(limit, Limit) for limit in limits):
            raise InvalidArgument(f"{whose} needs at least one limit, like Limit(10, per=60)")
        if len({(limit.per, limit.algorithm) for limit in limits}) < len(limits):
            raise InvalidArgument(f"{whose} has two limits with the same window")
        self.limits = tuple(limits)
        self.most = min(limit.most for limit in limits)
        # Array literals, made once: four lists would be half the work of sending a hit.
        self.arguments = {
            "max": _array(limit.max for limit in limits),
            "per": _array(_microseconds(limit) for limit in limits),
            "algorithm": _array(limit.algorithm for limit in limits),
            "burst": _array(getattr(limit, "burst", None) or "NULL" for limit in limits),
        }
        self._hash = hash(self.limits)
        self.only = _one(limits[0]) if len(limits) == 1 else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitSet) and self.limits == other.limits

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))


def _one(limit: Limit) -> dict[str, object]:
    return {
        "max": limit.max,
        "per": _microseconds(limit),
        "algorithm": limit.algorithm,
        "burst": getattr(limit, "burst", None),
    }


def _microseconds(limit: Limit) -> str:
    return f"{limit.per // _MICROSECOND} us"


def _array(values: Iterable[object]) -> str:
    return "{" + ",".join(str(value) for value in values) + "}"


def _count(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise InvalidArgument(f"{name} must be a whole number from 1 to {_MOST}, not {value!r}")
    return value
