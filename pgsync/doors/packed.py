"""Jobs of tasks that are called by position too: ``{"args": [1, 2], "kwargs": {"to": "a"}}``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgsync.database.calls import Listing, in_utc
from pgsync.database.json import from_json

__all__ = ["PackedJob", "exception_class", "find_packed", "job_number", "packed"]


@dataclass(frozen=True, slots=True)
class PackedJob:
    """A job, live or ended, as the doors read it; ``started_at`` is of its last attempt."""

    id: int
    task: str
    queue: str
    state: str
    priority: int
    attempt: int
    created_at: datetime
    worker: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    args: Mapping[str, Any] | None = None
    errors: Sequence[Mapping[str, Any]] = ()
    result: Any = None


def packed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, as a job of these doors has them."""
    return {"args": list(args), "kwargs": dict(kwargs)}


def find_packed(id: int) -> Listing[PackedJob]:
    """The job; JSON comes as text, since frameworks have loaders of their own for it."""
    return Listing(
        "SELECT j.id, j.task, j.queue, j.state, j.priority, j.attempt, j.created_at, j.worker,"
        " j.started_at, j.finished_at, j.args::text, coalesce(j.errors, '[]')::text,"
        " coalesce(j.result, 'null')::text"
        " FROM pgsync.all_jobs AS j WHERE j.id = %(id)s::bigint",
        {"id": id},
        lambda row: PackedJob(*in_utc(row[:10]), *map(from_json, row[10:])),
    )


def job_number(id: str) -> int | None:
    """The number of the job that a framework calls by this text; None where it can be none."""
    return int(id) if id.isascii() and id.isdigit() and len(id) < 19 else None


def exception_class(path: str) -> type[Exception] | None:
    """The exception of that path (``package.module.Class``), where this process has it loaded."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
