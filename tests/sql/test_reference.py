"""The SQL reference is what the catalogue says, and leaves nothing out."""

from __future__ import annotations

import re

import psycopg

from pgsync.database.migrations import sql_folder
from pgsync.database.reference import reference
from tests.sql.signatures import signatures

_PAGE = sql_folder().parent / "docs" / "sql.md"


def test_the_reference_is_fresh(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        assert _PAGE.read_text() == reference(connection), (
            "run: python -m pgsync.database.reference > docs/sql.md"
        )


def test_the_reference_has_every_public_name_once(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        text = reference(connection)
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pgsync'::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition"
        ).fetchall()
        public = signatures(connection)
    functions = [f"{each['function']}()" for each in public if "function" in each]
    views = [each["view"] for each in public if "view" in each]
    headings = re.findall(r"^### (\S+)$", text, re.MULTILINE)
    assert sorted(h for h in headings if h.endswith("()")) == sorted(functions)
    assert set(views) <= set(headings)
    assert len(set(views)) == len([h for h in headings if h in views])
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(
        [*(name for (name,) in tables), "PS001", "PS002", "PS003", "PS004"]
    )
