"""One run of an operation: the plan that performs it, and what its handler is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from pgsync.database.calls import Invoke, Steps
from pgsync.database.drive import drive, drive_async
from pgsync.database.json import to_json
from pgsync.database.words import error_text
from pgsync.errors import (
    InvalidArgument,
    LockHeld,
    LockLost,
    OperationBlocked,
    PgsyncError,
    RateLimited,
)
from pgsync.limits import acquire_plan, hit
from pgsync.locks import HeldLock, LockKeeper, LockRequest
from pgsync.log_fields import log_fields
from pgsync.operations.calls import (
    begin_operation,
    finish_operation,
    note_operation,
    operation_progress,
    refuse_operation,
)
from pgsync.operations.declaration import OperationDeclaration, Release
from pgsync.operations.failure import FailureCallbacks, OperationFailure
from pgsync.queues import CancelJob, ReleaseJob

__all__ = ["AsyncOperationRun", "OperationRun", "Request", "RunState", "perform_plan"]

logger = logging.getLogger("pgsync.operations")

_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants an operation run, on what; ``job_id`` where a worker performs it.

    ``lock_token`` is by what the claim of that job has reserved the lock.
    """

    declaration: OperationDeclaration
    args: dict[str, Any]
    actor: str
    job_id: int | None = None
    lock_token: int | None = None
    failures: FailureCallbacks | None = None
    """Who is told where it fails; None where its job tells."""

    @property
    def key(self) -> str:
        """The lock's name."""
        return self.declaration.key(self.args)


@dataclass(slots=True)
class RunState:
    """What both faces of a run share, and the plans of what its handler may ask."""

    id: int
    request: Request
    held: HeldLock
    done: int = 0
    total: int | None = None
    sent_at: float = field(default=0.0)

    def progress_plan(self, done: int, total: int | None) -> Steps[None]:
        """Plan: keep the progress, and tell the table now and then."""
        self.held.check()
        self.done, self.total = done, total
        now = time.monotonic()
        # A handler may report each row of a million; the table hears a few a second, and the last.
        if done == total or now - self.sent_at >= _PROGRESS_SECONDS:
            self.sent_at = now
            yield from operation_progress(self.id, done, total)

    def permit_plan(self, cost: int) -> Steps[None]:
        """Plan: take a further permit while the lock lasts."""
        self.held.check()
        limits = self.request.declaration.limits
        if not limits:
            raise InvalidArgument(f"operation {self.request.declaration.name!r} has no limit=")
        patience = max(0.0, self.held.deadline - time.monotonic())
        yield from acquire_plan(_limit_key(self.request), limits, cost, patience)

    def note_plan(self, event: str, detail: dict[str, Any]) -> Steps[None]:
        """Plan: add an event to the history."""
        yield from note_operation(self.id, event, detail)


class _RunFace:
    def __init__(self, state: RunState, run: Callable[[Any], Any]) -> None:
        self._state = state
        self._run = run

    @property
    def id(self) -> int:
        """The run's number in ``pgsync.operations``."""
        return self._state.id

    @property
    def actor(self) -> str:
        """Who started it."""
        return self._state.request.actor

    @property
    def key(self) -> str:
        """What it works on: its lock's name."""
        return self._state.request.key

    @property
    def token(self) -> int:
        """The fencing token of its lock."""
        return self._state.held.token

    @property
    def remaining(self) -> float:
        """Seconds until its lock's deadline."""
        return max(0.0, self._state.held.deadline - time.monotonic())

    def check(self) -> None:
        """Raise :class:`LockLost` unless its lock is held still; no round trip."""
        self._state.held.check()


class OperationRun(_RunFace):
    """What a handler of a Coordinator is given as its first argument."""

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far it has come; cheap enough to call for each row.

        Raises:
            LockLost: if its lock is lost, so that the work must stop.
        """
        drive(self._state.progress_plan(done, total), self._run)

    def permit(self, cost: int = 1) -> None:
        """Take a further permit of the operation's limit, waiting at most until its lock ends.

        Raises:
            RateLimited: if the window opens too late for that.
            LockLost: if its lock is lost.
        """
        drive(self._state.permit_plan(cost), self._run)

    def note(self, event: str, **detail: Any) -> None:
        """Add an event to its history (``pgsync.operation_events``)."""
        drive(self._state.note_plan(event, detail), self._run)


class AsyncOperationRun(_RunFace):
    """What a handler of an AsyncCoordinator is given as its first argument."""

    async def progress(self, done: int, total: int | None = None) -> None:
        """As :meth:`OperationRun.progress`."""
        await drive_async(self._state.progress_plan(done, total), self._run)

    async def permit(self, cost: int = 1) -> None:
        """As :meth:`OperationRun.permit`."""
        await drive_async(self._state.permit_plan(cost), self._run)

    async def note(self, event: str, **detail: Any) -> None:
        """As :meth:`OperationRun.note`."""
        await drive_async(self._state.note_plan(event, detail), self._run)


def perform_plan(
    request: Request, keeper: LockKeeper, face: Callable[[RunState], Any]
) -> Steps[Any]:
    """Plan: take the lock and the first permit, run the handler, record it all.

    ``face`` makes what the handler is given, of the caller's own face.

    Raises:
        OperationBlocked: if the lock is held.
        RateLimited: if its limit is used up; nothing ran.
    """
    held = yield from _take_lock(request, keeper)
    try:
        declaration = request.declaration
        run_id = yield from begin_operation(
            declaration.name, request.key, request.args, request.actor, request.job_id, held.token
        )
        state = RunState(run_id, request, held)
        try:
            yield from _take_permit(request)
            handle = partial(declaration.function, face(state), **request.args)
            with log_fields(operation=declaration.name, lock=request.key):
                outcome = yield from Invoke(handle, handle)
            if outcome is not None:
                to_json(outcome, f"the result of operation {declaration.name!r}")
        except BaseException as error:
            ending = _ending(error)
            try:
                yield from _finish(state, ending, None, error_text(error))
            except (psycopg.Error, PgsyncError) as fault:
                # What went wrong in the handler is what the caller has to hear of.
                logger.warning(
                    "the end of operation %s is not recorded: %s",
                    request.key,
                    fault,
                    extra=_fields(request),
                )
            yield from _tell(request, ending, error)
            raise
        if held.ended:
            # Its work is done, though not all of it under the lock: say so, where it can be seen.
            logger.warning(
                "operation %s lost its lock while it ran", request.key, extra=_fields(request)
            )
            yield from state.note_plan("lock_lost", {"reason": held.lost_because})
        yield from _finish(state, "completed", outcome, None)
        return outcome
    finally:
        yield from keeper.release(held)


def _take_lock(request: Request, keeper: LockKeeper) -> Steps[HeldLock]:
    declaration = request.declaration
    lock = LockRequest(
        request.key, declaration.ttl, request.actor, auto_renew=declaration.auto_renew
    )
    try:
        held = yield from _acquire(lock, request.lock_token, keeper)
    except LockHeld as error:
        goes_back = request.job_id is not None and isinstance(declaration.blocked, Release)
        message = declaration.blocked_message
        yield from refuse_operation(
            declaration.name,
            request.key,
            request.args,
            request.actor,
            request.job_id,
            "released" if goes_back else "blocked",
            message,
            error.holder,
        )
        raise OperationBlocked(
            message,
            operation=declaration.name,
            key=request.key,
            holder=error.holder,
            expires_at=error.expires_at,
        ) from error
    return held


def _acquire(lock: LockRequest, token: int | None, keeper: LockKeeper) -> Steps[HeldLock]:
    if token is not None:
        try:
            return (yield from keeper.restore(lock, token, ahead=True))
        except LockLost:
            pass  # The job has waited in its worker for longer than the lock is reserved.
    return (yield from keeper.acquire(lock))


def _take_permit(request: Request) -> Steps[None]:
    limits = request.declaration.limits
    if limits:
        decision = yield from hit(_limit_key(request), limits, 1)
        if not decision.allowed:
            raise RateLimited(
                _limit_key(request),
                retry_after=decision.retry_after,
                resets_at=decision.resets_at,
                message=request.declaration.limited_message(decision),
            )


def _ending(error: BaseException) -> str:
    if isinstance(error, RateLimited):
        return "limited"
    if isinstance(error, CancelJob):
        return "cancelled"
    return "released" if isinstance(error, ReleaseJob) else "failed"


def _tell(request: Request, ending: str, error: BaseException) -> Steps[None]:
    if request.failures is None or ending != "failed" or not isinstance(error, Exception):
        return
    failure = OperationFailure(
        request.declaration.name, request.key, request.args, request.actor, error
    )
    yield from Invoke(
        partial(request.failures.tell, failure), partial(request.failures.tell_async, failure)
    )


def _finish(state: RunState, ending: str, outcome: Any, error: str | None) -> Steps[None]:
    if state.done:
        yield from operation_progress(state.id, state.done, state.total)
    yield from finish_operation(state.id, ending, outcome, error)


def _fields(request: Request) -> dict[str, str]:
    return {"operation": request.declaration.name, "lock": request.key}


def _limit_key(request: Request) -> str:
    return f"operation:{request.key}"
