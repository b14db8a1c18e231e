"""Reading for the faces: bounded queries, on connections of the dashboard's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from pgsync.dashboard.exact import ExactLoader
from pgsync.database.pool import AsyncDatabase

__all__ = ["MOST_COUNTED", "Read", "acting", "reading"]

MOST_COUNTED = 10_000
_READ_TIMEOUT = "2s"
_ACT_TIMEOUT = "15s"  # A thousand jobs are retried in one call.


class Read:
    """Runs queries in one transaction."""

    def __init__(self, cursor: psycopg.AsyncCursor[dict[str, Any]]) -> None:
        self._cursor = cursor

    async def rows(
        self, query: LiteralString, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """All rows of the query."""
        await self._cursor.execute(query, parameters)
        return await self._cursor.fetchall()

    async def row(
        self, query: LiteralString, parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The query's first row, or None."""
        await self._cursor.execute(query, parameters)
        return await self._cursor.fetchone()


@asynccontextmanager
async def reading(database: AsyncDatabase) -> AsyncIterator[Read]:
    """A read-only transaction in which a query that takes over two seconds is ended."""
    async with _transaction(database, _READ_TIMEOUT, read_only="on") as read:
        yield read


@asynccontextmanager
async def acting(database: AsyncDatabase) -> AsyncIterator[Read]:
    """A transaction for one action, which is ended after fifteen seconds."""
    async with _transaction(database, _ACT_TIMEOUT, read_only="off") as read:
        yield read


@asynccontextmanager
async def _transaction(
    database: AsyncDatabase, timeout: str, *, read_only: str
) -> AsyncIterator[Read]:
    async with (
        database.connection() as connection,
        connection.transaction(),
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        cursor.adapters.register_loader("jsonb", ExactLoader)
        # Settings of the transaction, not of the session, so that it works behind a pooler too.
        await cursor.execute(
            "SELECT set_config('statement_timeout', %s, true),"
            " set_config('transaction_read_only', %s, true)",
            [timeout, read_only],
        )
        yield Read(cursor)
