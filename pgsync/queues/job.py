"""A claimed job, as cheap to make as it can be: its arguments and times are read when asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from json import JSONDecoder
from typing import Any, NamedTuple

__all__ = ["ENDED", "STATES", "WAITING", "Job"]

WAITING = ("available", "scheduled", "retryable", "waiting")
"""The states of a job that nobody has begun, or not again yet."""
ENDED = ("completed", "discarded", "cancelled")
"""The states of a job that has ended."""
STATES = (*WAITING, "running", *ENDED)
"""The states of a job, in the order of its life."""

_decode = JSONDecoder().raw_decode
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Job(NamedTuple):
    """A claimed job. ``attempt`` counts from 1; by ``lock_token`` its lock was reserved for it.

    ``raw_args``, ``created`` and ``due`` are the server's own binary values: a ``jsonb``, and
    microseconds since 2000. Read :attr:`args`, :attr:`created_at` and :attr:`run_at` instead.
    """

    id: int
    queue: str
    task: str
    raw_args: bytes
    priority: int
    attempt: int
    max_attempts: int
    created: int
    due: int
    key: str | None = None
    batch: int | None = None
    lock_token: int | None = None

    @property
    def args(self) -> dict[str, Any]:
        """The arguments, still encrypted where they are. Each access reads them anew.

        Raises:
            ValueError: if Python cannot read them (a number of 5,000 digits).
            RecursionError: if they are nested too deeply.
        """
        # The first byte is the version of the format.
        args: dict[str, Any] = _decode(str(self.raw_args, "utf-8"), 1)[0]
        return args

    @property
    def created_at(self) -> datetime:
        """When it was enqueued, in UTC."""
        return _moment(self.created)

    @property
    def run_at(self) -> datetime:
        """When it was due, in UTC."""
        return _moment(self.due)


def _moment(microseconds: int) -> datetime:
    """Beyond Python's years, as infinity is, the last or first of them."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return _LATEST if microseconds > 0 else _EARLIEST
