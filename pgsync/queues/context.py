"""What a handler knows of the job it performs, and what it may answer besides returning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pgsync.database.calls import Call
from pgsync.database.json import to_json
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, JobLost, PgsyncError
from pgsync.queues.attempt_log import AttemptLog, LogLine
from pgsync.queues.carried import tags_in
from pgsync.queues.job import Job
from pgsync.queues.work import complete_job

__all__ = [
    "CancelJob",
    "DiscardJob",
    "JobContext",
    "JobDiscarded",
    "JobTimedOut",
    "ProcessDied",
    "ReleaseJob",
    "WorkerDied",
    "current_job",
    "make_current",
    "performing",
]

_LONGEST_NOTE = 500

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
    worker: int = 0
    completed: bool = False
    """Whether :meth:`complete` was called; the job is completed when that transaction commits."""
    tell: Callable[[JobContext, str], None] | None = None
    """Where :meth:`progress` goes; None outside of workers."""
    lines: AttemptLog | None = None
    """What was logged; the worker keeps it with the attempt."""
    pass_on: Callable[[LogLine], None] | None = None
    """Where :meth:`log` goes from a process of the handler's own."""
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

    @property
    def tags(self) -> tuple[str, ...]:
        """The job's tags."""
        return tags_in(self.job.args)

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

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Tell how far the handler is; no round trip.

        The worker sends the last of what each job told about every second; it is in the column
        ``progress`` of ``pgsync.jobs`` and in ``sync.job(id)`` while the job runs.

        Raises:
            InvalidArgument: if these are not numbers of 0 or more, or the note is no short text.
        """
        for name, value in (("done", done), ("total", total)):
            if value is not None and not (isinstance(value, (int, float)) and value >= 0):
                raise InvalidArgument(f"{name} must be a number of 0 or more, not {value!r}")
        if note is not None and (not isinstance(note, str) or len(note) > _LONGEST_NOTE):
            raise InvalidArgument(f"note must be text of at most {_LONGEST_NOTE} characters")
        told = {"done": done, "total": total, "note": note}
        text = to_json({name: value for name, value in told.items() if value is not None}, "note")
        if self.tell is not None:
            self.tell(self, text)

    def log(self, text: object) -> None:
        """Keep a line with this attempt, for who looks at the job; no round trip.

        The last 200 lines, of 1,000 characters at most, are stored in one statement when the
        attempt ends, whether it succeeds or not; those of a worker that dies are lost. They are in
        ``pgsync.job_notes`` and on the job's page.
        """
        self.keep(LogLine.now(text))

    def keep(self, line: LogLine) -> None:
        """Keep a line that was logged, here or in the handler's own process."""
        if self.pass_on is not None:
            self.pass_on(line)
            return
        if self.lines is None:
            with _making:
                self.lines = self.lines or AttemptLog()
        self.lines.add(line)

    def complete(self, *, within: Any, result: Any = None) -> None:
        """Complete the job in the transaction of ``within``, a connection or session.

        The job's effects in that transaction and its completion are then committed together, or
        neither is: they happen exactly once. Call it last in the transaction. Where that is rolled
        back, the job is what the handler's end makes of it.

        Raises:
            JobLost: if the attempt is no longer the one that runs; roll the effects back.
            InvalidArgument: if JSON cannot say the result, or ``within`` cannot carry the call.
        """
        self._told_complete(run_within(within, self._completion(result)))

    async def complete_async(self, *, within: Any, result: Any = None) -> None:
        """As :meth:`complete`, in the transaction of an asyncio connection or session."""
        self._told_complete(await run_within_async(within, self._completion(result)))

    def _completion(self, result: Any) -> Call[bool]:
        text = None if result is None else to_json(result, f"the result of {self.job.task}")
        return complete_job(self.worker, self.job, text)

    def _told_complete(self, accepted: bool) -> None:
        if not accepted:
            raise JobLost(
                f"attempt {self.attempt} of job {self.id} ({self.job.task}) is not the running one:"
                " its worker was given up for dead, or it has ended; roll this transaction back"
            )
        self.completed = True

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


def make_current(context: JobContext) -> None:
    """Make ``context`` the current job of the caller's own :class:`contextvars.Context`."""
    _current.set(context)


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


class ProcessDied(PgsyncError):
    """The process that a handler with ``run_in="process"`` had died; the attempt has failed."""


class WorkerDied(PgsyncError):
    """What ``on_discard`` is given, with the last error's text, where the job's worker died."""


class JobDiscarded(PgsyncError):
    """What ``on_discard`` is given, with the reason, where somebody discarded the job by hand."""


class DiscardJob(Exception):
    """Raised by a handler: the job can never succeed; do not try again."""


class CancelJob(Exception):
    """Raised by a handler: the job ends as cancelled, with the text as its reason."""
