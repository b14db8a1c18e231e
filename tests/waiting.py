"""Seeing in the server that somebody waits for a lock: of a row, of a table, or an advisory one."""

from __future__ import annotations

from typing import Any

import psycopg

__all__ = ["sessions_waiting"]


def sessions_waiting(database: psycopg.Connection[Any]) -> int:
    """How many sessions of this database wait for a lock."""
    row = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count
