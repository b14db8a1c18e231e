"""The calls of operations: each is one SQL function of ``sql/api/7_operations.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgsync.database.calls import Call, Listing, in_utc, scalar
from pgsync.database.json import to_json

__all__ = [
    "OperationState",
    "begin_operation",
    "finish_operation",
    "note_operation",
    "operation_progress",
    "operation_status",
    "refuse_operation",
]


@dataclass(frozen=True, slots=True)
class OperationState:
    """A run of an operation, as the view ``pgsync.operations`` shows it."""

    id: int
    operation: str
    key: str
    state: str
    actor: str
    requested_at: datetime
    finished_at: datetime | None
    done: int | None
    total: int | None
    outcome: Any
    error: str | None
    blocked_by: str | None
    job_id: int | None


def begin_operation(
    operation: str,
    key: str,
    args: dict[str, Any],
    actor: str,
    job_id: int | None,
    lock_token: int | None,
) -> Call[int]:
    """Record that an operation runs under its lock; returns the run's number."""
    return Call(
        "SELECT pgsync.begin_operation(%(operation)s, %(key)s, %(args)s::jsonb, %(actor)s,"
        " %(job_id)s, %(lock_name)s, %(lock_token)s)",
        {
            "operation": operation,
            "key": key,
            "args": to_json(args, f"the arguments of {operation}"),
            "actor": actor,
            "job_id": job_id,
            "lock_name": key if lock_token is not None else None,
            "lock_token": lock_token,
        },
        scalar,
    )


def refuse_operation(
    operation: str,
    key: str,
    args: dict[str, Any],
    actor: str,
    job_id: int | None,
    state: str,
    message: str,
    blocked_by: str | None,
) -> Call[int]:
    """Record that an operation did not run: ``blocked`` or ``released``."""
    return Call(
        "SELECT pgsync.refuse_operation(%(operation)s, %(key)s, %(args)s::jsonb, %(actor)s,"
        " %(job_id)s, %(key)s, %(state)s, %(message)s, %(blocked_by)s)",
        {
            "operation": operation,
            "key": key,
            "args": to_json(args, f"the arguments of {operation}"),
            "actor": actor,
            "job_id": job_id,
            "state": state,
            "message": message,
            "blocked_by": blocked_by,
        },
        scalar,
    )


def operation_progress(run: int, done: int, total: int | None) -> Call[bool]:
    """Say how far a run has come."""
    return Call(
        "SELECT p.known FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.operation_progress(%(run)s, %(done)s, %(total)s) AS p (known)",
        {"run": run, "done": done, "total": total},
        scalar,
    )


def note_operation(run: int, event: str, detail: dict[str, Any]) -> Call[int]:
    """Add an event to a run's history."""
    return Call(
        "SELECT pgsync.note_operation(%(run)s, %(event)s, %(detail)s::jsonb)",
        {"run": run, "event": event, "detail": to_json(detail, "the event's detail")},
        scalar,
    )


def finish_operation(run: int, state: str, outcome: Any, error: str | None) -> Call[bool]:
    """End a run; False where it had been given up as abandoned."""
    return Call(
        "SELECT pgsync.finish_operation(%(run)s, %(state)s, %(outcome)s::jsonb, %(error)s)",
        {
            "run": run,
            "state": state,
            "outcome": None if outcome is None else to_json(outcome, "the operation's result"),
            "error": error,
        },
        scalar,
    )


def operation_status(operation: str, key: str) -> Listing[OperationState]:
    """The run that goes on, or else the last; an empty list where there was none."""
    return Listing(
        "SELECT s.id, s.operation, s.key, s.state, s.actor, s.requested_at, s.finished_at, s.done,"
        " s.total, s.outcome, s.error, s.blocked_by, s.job_id"
        " FROM pgsync.operation_status(%(operation)s, %(key)s) AS s",
        {"operation": operation, "key": key},
        lambda row: OperationState(*in_utc(row)),
    )
