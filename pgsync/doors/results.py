"""The result of a task in Celery's manner: the state of a job, and what it returned."""

from __future__ import annotations

import time
from typing import Any

from pgsync.coordinator import Coordinator
from pgsync.database.calls import first
from pgsync.doors.packed import PackedJob, exception_class, find_packed, job_number
from pgsync.errors import PgsyncError
from pgsync.queues import ENDED

__all__ = ["AsyncResult", "TaskFailed", "TaskRevokedError"]

_FIRST_PAUSE = 0.005
_STATES = {"running": "STARTED", "completed": "SUCCESS", "discarded": "FAILURE"}
_READY = ("SUCCESS", "FAILURE", "REVOKED")


class TaskFailed(PgsyncError):
    """The task failed for good, with an error whose class this process does not have."""


class TaskRevokedError(PgsyncError):
    """The task was revoked, or had expired when it was to start."""


class AsyncResult:
    """The task with this id. Each property asks the database anew.

    States: PENDING (or no such task), STARTED, RETRY, SUCCESS, FAILURE, REVOKED.
    """

    def __init__(self, id: str, coordinator: Coordinator) -> None:
        self.id = id
        self._coordinator = coordinator

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    @property
    def state(self) -> str:
        """The state, a word of Celery's."""
        return _state(self._find())

    status = state

    @property
    def result(self) -> Any:
        """What it returned, or the error; None before its end."""
        return _outcome(self._find())

    @property
    def traceback(self) -> str | None:
        """That of the last failed attempt."""
        job = self._find()
        return job.errors[-1].get("traceback") if job and job.errors else None

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in _READY

    def successful(self) -> bool:
        """Whether it has returned."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether it has failed for good."""
        return self.state == "FAILURE"

    def get(
        self, timeout: float | None = None, *, propagate: bool = True, interval: float = 0.5
    ) -> Any:
        """Wait for the end, asking every ``interval`` seconds and at first more often.

        Returns what the task returned. What it failed with is raised, or returned where
        ``propagate`` is False: an error of the same class where this process has it loaded, else
        :class:`TaskFailed`. Without ``timeout`` it waits as long as it takes, as Celery's does.

        Raises:
            TimeoutError: if it has not ended after ``timeout`` seconds.
            TaskRevokedError: if it was revoked.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while _state(job := self._find()) not in _READY:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"task {self.id} has not ended after {timeout:g} s")
            time.sleep(pause if until is None else min(pause, max(until - time.monotonic(), 0)))
            pause = min(pause * 1.5, interval)
        outcome = _outcome(job)
        if propagate and isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def revoke(self) -> None:
        """Cancel it: before it starts, or by asking a running one to stop."""
        if (number := job_number(self.id)) is not None:
            self._coordinator.cancel_job(number, "revoked")

    def _find(self) -> PackedJob | None:
        number = job_number(self.id)
        if number is None:
            return None
        return first(self._coordinator.database.run(find_packed(number)))


def _state(job: PackedJob | None) -> str:
    if job is None:
        return "PENDING"
    if job.state == "cancelled":
        return "REVOKED"
    return _STATES.get(job.state) or ("RETRY" if job.errors else "PENDING")


def _outcome(job: PackedJob | None) -> Any:
    if job is None or job.state not in ENDED:
        return None
    if job.state == "completed":
        return job.result
    if job.state == "cancelled":
        return TaskRevokedError((job.result or {}).get("reason") or "revoked")
    last = job.errors[-1] if job.errors else {}
    text = last.get("error") or "discarded by hand"
    kind = exception_class(last.get("type", ""))
    # Its words alone are kept: a class that wants more than them is not made anew.
    try:
        return TaskFailed(text) if kind is None else kind(text.partition(": ")[2])
    except TypeError:
        return TaskFailed(text)
