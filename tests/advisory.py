"""Counting advisory locks, as the server sees them."""

from __future__ import annotations

from typing import Any

import psycopg

__all__ = ["advisory_locks"]


def advisory_locks(database: psycopg.Connection[Any]) -> int:
    """How many are held or waited for in this database, by anybody; not by a view of ours."""
    row = database.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count
