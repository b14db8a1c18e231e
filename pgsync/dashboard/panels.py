"""What the page shows: each panel is one bounded query on one of pgsync's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

__all__ = ["PANELS", "Panel", "json_value", "read_panel", "shown"]

_STATEMENT_TIMEOUT = "2s"


@dataclass(frozen=True, slots=True)
class Panel:
    """A list of rows; ``name`` is its place in the API (``/api/locks``) and on the page."""

    name: str
    title: str
    empty: str
    query: LiteralString


PANELS = (
    Panel(
        "operations",
        "Operations",
        "No operation has run yet.",
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.duration,"
        " o.done, o.total, o.error, o.blocked_by"
        " FROM pgsync.operations AS o ORDER BY o.id DESC LIMIT 25",
    ),
    Panel(
        "queues",
        "Queues",
        "No queue has jobs or workers.",
        "SELECT q.name, q.paused, q.available, q.scheduled, q.running, q.oldest_wait, q.workers"
        " FROM pgsync.queues AS q ORDER BY q.name LIMIT 100",
    ),
    Panel(
        "locks",
        "Locks",
        "No lock is held.",
        "SELECT l.name, l.owner, l.token, l.age, l.remaining, l.waiting"
        " FROM pgsync.locks AS l ORDER BY l.acquired_at LIMIT 100",
    ),
    Panel(
        "limits",
        "Rate limits",
        "No limit is in use.",
        "SELECT l.key, l.algorithm, l.per, l.hits, l.max, l.remaining, l.opens_at, l.waiting,"
        " l.penalised_until FROM pgsync.rate_limits AS l WHERE l.resets_at > pgsync.clock()"
        " ORDER BY l.fill DESC, l.key LIMIT 25",
    ),
    Panel(
        "schedules",
        "Schedules",
        "No schedule is declared.",
        "SELECT s.name, s.state, s.expression, s.timezone, s.next_fire_at, s.last_fire_at"
        " FROM pgsync.schedules AS s ORDER BY s.next_fire_at, s.name LIMIT 100",
    ),
    Panel(
        "workers",
        "Workers",
        "No worker lives.",
        "SELECT w.id, w.name, w.queues, w.state, w.running, w.concurrency, w.silence"
        " FROM pgsync.workers AS w ORDER BY w.id LIMIT 100",
    ),
    Panel(
        "jobs",
        "Jobs that ended last",
        "No job has ended yet.",
        "SELECT h.id, h.queue, h.task, h.state, h.attempt, h.finished_at, h.ran,"
        " h.errors -> -1 ->> 'error' AS error"
        " FROM pgsync.job_history AS h"
        " WHERE h.finished_at > pgsync.clock() - interval '1 hour'"
        " ORDER BY h.finished_at DESC LIMIT 25",
    ),
)


async def read_panel(
    connection: psycopg.AsyncConnection[Any], panel: Panel
) -> list[dict[str, Any]]:
    """The panel's rows; a query that takes over two seconds is ended, for the database's sake."""
    async with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT set_config('statement_timeout', %s, true),"
            " set_config('transaction_read_only', 'on', true)",
            [_STATEMENT_TIMEOUT],
        )
        await cursor.execute(panel.query)
        return await cursor.fetchall()


def shown(value: Any) -> str:
    """A value as a person reads it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case timedelta():
            return str(timedelta(seconds=round(value.total_seconds())))
        case list():
            return ", ".join(str(each) for each in value)
    return str(value)


def json_value(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601, durations in seconds."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Sequence() if not isinstance(value, str):
            return [json_value(each) for each in value]
    return value
