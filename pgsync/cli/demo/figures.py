"""What the demo reports: read back from the database and the stand-in's log, never remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

__all__ = ["Mark", "read_figures", "take_mark"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where this run of the demo begins in a database that others may have used before."""

    operation: int
    job: int


def take_mark(connection: psycopg.Connection[Any]) -> Mark:
    """The newest run and job now."""
    row = connection.execute(
        "SELECT (SELECT coalesce(max(o.id), 0) FROM pgsync.operations AS o),"
        " greatest((SELECT max(j.id) FROM pgsync.jobs AS j),"
        "          (SELECT max(h.id) FROM pgsync.job_history AS h), 0)"
    ).fetchone()
    return Mark(*(row or (0, 0)))


def read_figures(
    connection: psycopg.Connection[Any], mark: Mark, campaign: int, duplicate_sends: int
) -> dict[str, Any]:
    """The demo's figures since ``mark``; ``duplicate_sends`` is from the stand-in's log."""
    templates = _outcome(connection, mark, "template_sync")
    contacts = _outcome(connection, mark, "contact_import")
    return {
        "templates": {
            **{name: templates.get(name) for name in ("total", "created", "updated", "missing")},
            "errors": len(templates.get("errors", ())),
        },
        "contacts": {
            name: contacts.get(name) for name in ("rows", "imported", "duplicates", "rejected")
        },
        "campaign": {**_campaign(connection, campaign), "duplicate_sends": duplicate_sends},
        "blocked": _rows(
            connection,
            "SELECT o.operation, o.key, o.error AS message FROM pgsync.operations AS o"
            " WHERE o.id > %(mark)s AND o.state IN ('blocked', 'released') ORDER BY o.id",
            {"mark": mark.operation},
        ),
        "jobs": _rows(
            connection,
            "SELECT count(*) FILTER (WHERE h.state = 'completed') AS completed,"
            " count(*) FILTER (WHERE h.state = 'discarded') AS failed"
            " FROM pgsync.job_history AS h WHERE h.id > %(mark)s",
            {"mark": mark.job},
        )[0],
    }


def _outcome(connection: psycopg.Connection[Any], mark: Mark, operation: str) -> dict[str, Any]:
    """What the first completed run of the operation since the mark returned, as recorded."""
    rows = _rows(
        connection,
        "SELECT o.outcome FROM pgsync.operations AS o WHERE o.id > %(mark)s"
        " AND o.operation = %(operation)s AND o.state = 'completed' ORDER BY o.id LIMIT 1",
        {"mark": mark.operation, "operation": operation},
    )
    return rows[0]["outcome"] if rows else {}


def _campaign(connection: psycopg.Connection[Any], campaign: int) -> dict[str, Any]:
    return _rows(
        connection,
        "SELECT count(*) AS recipients,"
        " count(*) FILTER (WHERE r.state IN ('sent', 'delivered', 'read')) AS sent,"
        " count(*) FILTER (WHERE r.state = 'failed') AS failed,"
        " count(*) FILTER (WHERE r.state = 'unknown') AS unknown"
        " FROM pgsync_modules.campaign_recipient AS r WHERE r.campaign_id = %(campaign)s",
        {"campaign": campaign},
    )[0]


def _rows(
    connection: psycopg.Connection[Any], query: Any, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()
