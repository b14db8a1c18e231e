"""A prepared statement and the one behind it: sent at once, each a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgsync.database.calls import Prepared
from pgsync.database.kept import AsyncKeptConnection, KeptConnection
from pgsync.database.pool import AsyncDatabase, Database


def ask_blocking(dsn: str, questions: list[Prepared[int]]) -> list[int | None]:
    database = Database(dsn)
    kept = KeptConnection(database)
    try:
        return [kept.run(question) for question in questions]
    finally:
        kept.close()
        database.close()


def ask_awaiting(dsn: str, questions: list[Prepared[int]]) -> list[int | None]:
    async def ask() -> list[int | None]:
        database = AsyncDatabase(dsn)
        kept = AsyncKeptConnection(database)
        try:
            return [await kept.run(question) for question in questions]
        finally:
            await kept.close()
            await database.close()

    return asyncio.run(ask())


def keep(word: str, behind: Prepared[int] | None = None) -> Prepared[int]:
    """Have a word kept, by the number of the transaction that keeps it."""
    return Prepared(
        "keep",
        "INSERT INTO words SELECT $1, pg_current_xact_id()::text::bigint RETURNING transaction",
        [word.encode()],
        lambda rows: int.from_bytes(rows[0][0], "big"),
        behind,
    )


@pytest.mark.parametrize("ask", [ask_blocking, ask_awaiting])
def test_one_is_refused_without_the_other(
    dsn: str, database: Any, ask: Callable[[str, list[Prepared[int]]], list[int | None]]
) -> None:
    database.execute("CREATE TABLE words (word text PRIMARY KEY, transaction bigint)")
    answers = ask(
        dsn,
        [
            keep("a", keep("b")),
            keep("c", keep("a")),  # The one behind is refused,
            keep("a", keep("d")),  # then the first.
            keep("e"),
        ],
    )
    kept = dict(database.execute("SELECT word, transaction FROM words").fetchall())
    assert answers == [kept["a"], kept["c"], None, kept["e"]]
    assert len(set(kept.values())) == len("abcde")
