"""Unique jobs: what makes two jobs the same, for how long, and what then becomes of the second."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.queues.job import ENDED

__all__ = ["Unique", "unique_from"]

_STATES = ("scheduled", "available", "running", "retryable", *ENDED)
_REPLACEABLE = ("args", "run_at", "priority", "max_attempts")


@dataclass(frozen=True, slots=True, init=False)
class Unique:
    """One job of a task at a time with the same arguments, or the same values of those in ``by``.

    It keeps its key in ``states`` (from the enqueuing to its end unless said otherwise), and for at
    most ``period`` seconds. A second job is not added; ``replace`` names what it gives to the first
    where that still waits: ``args``, ``run_at``, ``priority``, ``max_attempts``.

    The key is not taken again by a job that has left the states and comes back to one.

    Raises:
        InvalidArgument: if a job can never be unique in this way.
    """

    by: list[str] | None
    period: timedelta | None
    states: list[str] | None
    replace: list[str] | None

    def __init__(
        self,
        by: Sequence[str] | None = None,
        *,
        period: Duration | None = None,
        states: Sequence[str] | None = None,
        replace: Sequence[str] = (),
    ) -> None:
        for name, given in (("by", by), ("states", states), ("replace", replace)):
            if given is not None and not _are_names(given):
                raise InvalidArgument(f"{name} must be a list of names, not {given!r}")
        if by is not None and not by:
            raise InvalidArgument("by must name an argument; leave it out to compare them all")
        _check_names("states", states or (), _STATES)
        _check_names("replace", replace, _REPLACEABLE)
        if states is not None and not {"scheduled", "available"} <= set(states):
            raise InvalidArgument("states must have scheduled and available: a job begins in one")
        if states is not None and set(ENDED) & set(states) and period is None:
            raise InvalidArgument("a job that keeps its key when it has ended needs a period")
        values = (
            None if by is None else sorted(by),
            None if period is None else to_timedelta(period, "period"),
            None if states is None else list(states),
            list(replace) or None,
        )
        for field, value in zip(("by", "period", "states", "replace"), values, strict=True):
            object.__setattr__(self, field, value)


def unique_from(given: Unique | bool | None) -> Unique | None:
    """Understand the option ``unique``: True is by all arguments.

    Raises:
        InvalidArgument: if it is something else.
    """
    if isinstance(given, Unique):
        return given
    if given is None or isinstance(given, bool):
        return Unique() if given else None
    raise InvalidArgument(f"unique must be True or a Unique(...), not {given!r}")


def _are_names(given: Sequence[str]) -> bool:
    return (
        isinstance(given, Collection)
        and not isinstance(given, str)
        and all(isinstance(name, str) for name in given)
    )


def _check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidArgument(f"{option} knows {', '.join(known)}; not {', '.join(unknown)}")
