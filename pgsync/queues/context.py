"""What a handler knows of the job it performs, and what it may answer besides returning."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from pgsync.durations import Duration, to_timedelta
from pgsync.queues.calls import Job

__all__ = ["CancelJob", "DiscardJob", "JobContext", "ReleaseJob", "current_job", "performing"]

_current: ContextVar[JobContext | None] = ContextVar("pgsync_job", default=None)


@dataclass(frozen=True, slots=True)
class JobContext:
    """The job that is being performed.

    ``cancelled`` is set when somebody asked that it be cancelled: a long handler looks at it now
    and then, and raises :class:`CancelJob`.
    """

    job: Job
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> int:
        """The job's number."""
        return self.job.id

    @property
    def attempt(self) -> int:
        """The attempt that runs, from 1."""
        return self.job.attempt


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


class DiscardJob(Exception):
    """Raised by a handler: the job can never succeed; do not try again."""


class CancelJob(Exception):
    """Raised by a handler: the job ends as cancelled, with the text as its reason."""
