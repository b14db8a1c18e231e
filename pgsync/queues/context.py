"""What a handler knows of the job it performs, and what it may answer besides returning."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import PgsyncError
from pgsync.queues.calls import Job

__all__ = [
    "CancelJob",
    "DiscardJob",
    "JobContext",
    "JobTimedOut",
    "ReleaseJob",
    "current_job",
    "performing",
]

_making = threading.Lock()
_current: ContextVar[JobContext | None] = ContextVar("pgsync_job", default=None)


@dataclass(slots=True)
class JobContext:
    """The job that is being performed, and what its handler may have to end early for.

    ``cancelled`` is set when somebody asked that the job be cancelled, ``stopping`` when its worker
    is told to end. ``deadline`` is when its time is up by ``time.monotonic()``, and ``deadline_at``
    by the clock on the wall; both are None where its task has no timeout. A long handler calls
    :meth:`check` now and then.
    """

    job: Job
    stopping: threading.Event = field(default_factory=threading.Event)
    deadline: float | None = None
    deadline_at: datetime | None = None
    timeout: timedelta | None = None
    _cancelled: threading.Event | None = None

    @property
    def cancelled(self) -> threading.Event:
        """Set when somebody asked that the job be cancelled."""
        if self._cancelled is None:
            with _making:  # at its first use: an event for each of a million short jobs costs
                self._cancelled = self._cancelled or threading.Event()
        return self._cancelled

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked that the job be cancelled."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def id(self) -> int:
        """The job's number."""
        return self.job.id

    @property
    def attempt(self) -> int:
        """The attempt that runs, from 1."""
        return self.job.attempt

    def check(self) -> None:
        """Return if the handler may go on; no round trip.

        Raises:
            CancelJob: if the job is to be cancelled.
            JobTimedOut: if its time is up.
            ReleaseJob: if the worker stops; the job goes back with its attempt unspent.
        """
        if self.is_cancelled:
            raise CancelJob("cancelled while it ran")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise self.timed_out()
        if self.stopping.is_set():
            raise ReleaseJob(reason="its worker stops")

    def timed_out(self) -> JobTimedOut:
        """What an attempt that runs too long has failed with."""
        seconds = self.timeout.total_seconds() if self.timeout else 0.0
        return JobTimedOut(f"timed out after {seconds:g} s")

    def start(self, timeout: timedelta) -> None:
        """Set the deadline of a handler that begins now."""
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout.total_seconds()
        self.deadline_at = datetime.now(UTC) + timeout


def current_job() -> JobContext | None:
    """The job that the caller runs in; None outside of jobs."""
    return _current.get()


@contextmanager
def performing(context: JobContext) -> Iterator[None]:
    """Make ``context`` the current job of the code inside."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


class ReleaseJob(Exception):
    """Raised by a handler: put the job back for ``delay`` seconds; its attempt is not spent."""

    def __init__(self, delay: Duration = 0, reason: str = "") -> None:
        self.delay = to_timedelta(delay, "delay", zero=True)
        super().__init__(reason)


class JobTimedOut(PgsyncError, TimeoutError):
    """The handler ran longer than its task's ``timeout``; the attempt has failed."""


class DiscardJob(Exception):
    """Raised by a handler: the job can never succeed; do not try again."""


class CancelJob(Exception):
    """Raised by a handler: the job ends as cancelled, with the text as its reason."""
