"""What a check says: a level, what was found, and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, LiteralString, TypeAlias

import psycopg

__all__ = ["Check", "Finding", "Level", "Look", "asking"]

Level: TypeAlias = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check looked at. ``remedy`` is None where nothing is to be done."""

    check: str
    level: Level
    found: str
    remedy: str | None = None


Look: TypeAlias = Callable[[psycopg.Connection[Any]], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A name for people and scripts, and how to look. ``schema``: it needs pgsync's own."""

    name: str
    look: Look
    schema: bool = True


def asking(name: str, statement: LiteralString, *, well: str = "", schema: bool = True) -> Check:
    """A check by one statement, each of whose rows is a level, what was found, and a remedy.

    ``well`` is what is said where there is no row.
    """

    def look(connection: psycopg.Connection[Any]) -> Iterable[Finding]:
        rows = connection.execute(statement).fetchall()
        for level, found, remedy in rows:
            yield Finding(name, level, found, None if level == "ok" else remedy)
        if not rows:
            yield Finding(name, "ok", well)

    return Check(name, look, schema)
