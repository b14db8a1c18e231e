"""The SQL that a library sends, out of its code, and what a schema makes of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

__all__ = ["Answer", "answers", "statements"]

Answer: TypeAlias = tuple[tuple[int, ...], tuple[tuple[str, int], ...]]
"""The types of the parameters, as the server infers them, and the columns with theirs."""

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CALL)\b.*\bpgsync\.", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%s|%%")


def statements(library: Path) -> list[str]:
    """Each text in its code that is a statement on pgsync's schema, with ``$1`` for a parameter."""
    found = {
        _numbered(node.value)
        for path in sorted((library / "pgsync").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _STATEMENT.match(node.value)
    }
    return sorted(found)


def _numbered(statement: str) -> str:
    names: dict[str, int] = {}

    def number(placeholder: re.Match[str]) -> str:
        if placeholder[0] == "%%":
            return "%"
        # Each of those without a name is one of its own.
        return f"${names.setdefault(placeholder[1] or str(len(names)), len(names) + 1)}"

    return _PLACEHOLDER.sub(number, statement)


def answers(connection: psycopg.Connection[Any], asked: Iterable[str]) -> dict[str, Answer | str]:
    """What the server says of each: its answer's shape, or the error."""
    return dict(_answers(connection, asked))


def _answers(
    connection: psycopg.Connection[Any], asked: Iterable[str]
) -> Iterator[tuple[str, Answer | str]]:
    server = connection.pgconn
    for statement in asked:
        prepared = server.prepare(b"", statement.encode())
        if prepared.status != psycopg.pq.ExecStatus.COMMAND_OK:
            yield statement, prepared.error_message.decode()
            continue
        described = server.describe_prepared(b"")
        columns = range(described.nfields)
        yield (
            statement,
            (
                tuple(described.param_type(n) for n in range(described.nparams)),
                tuple(((described.fname(n) or b"").decode(), described.ftype(n)) for n in columns),
            ),
        )
