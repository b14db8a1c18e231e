"""A transaction that has changed something and not ended, and work that meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.eventually import eventually

__all__ = ["changed", "waiting"]


@contextmanager
def changed(dsn: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has done the statement and not ended; it is committed at the end."""
    with psycopg.connect(dsn) as connection:
        connection.execute(statement)
        yield connection


@contextmanager
def waiting(
    database: Any, holder: psycopg.Connection[Any], work: Callable[[], Any]
) -> Iterator[Future[Any]]:
    """The work, in a thread, at the moment when it waits for the holder's transaction."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        try:
            eventually(lambda: _waits_for(database, holder) or running.done(), within=60)
            yield running
        finally:
            holder.rollback()


def _waits_for(database: Any, holder: psycopg.Connection[Any]) -> bool:
    row = database.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid)))",
        [holder.info.backend_pid],
    ).fetchone()
    return bool(row[0])
