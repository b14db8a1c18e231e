"""``docs/sql.md``: the functions, views and tables of the schema, as the catalogue has them.

``python -m pgsync.database.reference`` prints it, out of a server of its own; a test keeps the page
in the repository equal to what is printed. What a comment calls internal is left out.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import class_row

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import api, migrate

__all__ = ["reference"]

_Row = TypeVar("_Row")

_FLOORS = {
    "Locks": ("1_", "lock fence"),
    "Rate limits": ("2_", "rate_limit limit"),
    "Queues": ("3_", "job queue floors_kept tenant_weight"),
    "Workers": ("4_", "worker"),
    "Looking at jobs": ("5_", ""),
    "Schedules": ("6_", "schedule"),
    "Operations": ("7_", "operation"),
    "Maintenance, statistics, metrics": ("8_ 9_", "duty throughput duration tally"),
    "Foundation": ("0_", "schema_migration audit"),
}
"""The sections: how the files of a section's functions and views begin, and how its tables do."""

_DEFINED = re.compile(r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|VIEW) pgsync\.(\w+)")

_HEAD = """\
# SQL reference

Any client with rights on the schema `pgsync` may call these functions and read these views; the
Python library uses nothing else. Arguments are passed in order or by name (`queue => 'mail'`), and
those with a default may be left out. A function with several columns in its answer is asked for
them: `SELECT acquired, token FROM pgsync.try_lock('report', '5 minutes', 'me')`.

Durations are intervals and times are `timestamptz`. Bad arguments raise `22023`
(invalid_parameter_value). Where the [roles](security.md#roles) are in use, a function may be called
by the role that stands with it, and by those above. pgsync's own errors are

| SQLSTATE | raised by | means |
|---|---|---|
| `PS001` | `assert_lock` | the token no longer holds the lock |
| `PS002` | `try_lock` and its kin | a quarter of the server's lock table is in use |
| `PS003` | `claim_jobs` | the worker was given up for dead and must register again |
| `PS004` | `fence` | a higher token has passed |

The tables are where the kernel keeps what it decides: look at them, but write by the functions. In
psql `\\df+ pgsync.*` shows the functions, and `\\d+ pgsync.job_ready` the comment of each column.
This page is written by `python -m pgsync.database.reference`, from the comments in the catalogue.
"""

_FUNCTIONS: LiteralString = r"""
SELECT p.proname AS name, c.comment,
       (SELECT r.role FROM pgsync.function_roles() AS r WHERE r.function = p.proname) AS role,
       ARRAY(SELECT concat_ws(' ', p.proargnames[a.n], format_type(a.type, NULL),
                              'DEFAULT ' || d.value)
             FROM unnest(coalesce(p.proallargtypes, p.proargtypes)) WITH ORDINALITY AS a (type, n)
             CROSS JOIN LATERAL regexp_replace(
                 pg_get_function_arg_default(p.oid, a.n::integer), '::[a-z ]+(\[\])?$', ''
             ) AS d (value)
             WHERE coalesce(p.proargmodes[a.n], 'i') = 'i' ORDER BY a.n) AS columns,
       CASE WHEN p.prokind = 'p' THEN ARRAY['nothing: it is a procedure']
            WHEN p.proallargtypes IS NULL THEN ARRAY[pg_get_function_result(p.oid)]
            ELSE ARRAY(SELECT concat_ws(' ', p.proargnames[a.n], format_type(a.type, NULL))
                       FROM unnest(p.proallargtypes) WITH ORDINALITY AS a (type, n)
                       WHERE p.proargmodes[a.n] <> 'i' ORDER BY a.n) END AS answer
FROM pg_proc AS p
CROSS JOIN LATERAL obj_description(p.oid, 'pg_proc') AS c (comment)
WHERE p.pronamespace = 'pgsync'::regnamespace AND c.comment NOT LIKE 'Internal:%'
ORDER BY p.proname COLLATE "C", p.pronargs, oidvectortypes(p.proargtypes) COLLATE "C"
"""

_RELATIONS: LiteralString = r"""
SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS comment, c.relkind::text AS kind,
       ARRAY(SELECT concat_ws(' ', a.attname, format_type(a.atttypid, NULL)) FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS columns
FROM pg_class AS c
WHERE c.relnamespace = 'pgsync'::regnamespace AND c.relkind IN ('v', 'r', 'p', 'c')
  AND NOT c.relispartition
ORDER BY c.relname COLLATE "C"
"""


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    comment: str
    role: str
    columns: list[str]
    answer: list[str]

    def text(self) -> str:
        """Its heading, signature, comment and role."""
        signature = (
            f"    {self.name}({_block(self.columns)})\n    returns{_block(self.answer, ' ')}\n"
        )
        return f"### {self.name}()\n\n{signature}\n{self.comment} Role: `{self.role}`.\n"


@dataclass(frozen=True, slots=True)
class _Relation:
    name: str
    comment: str
    kind: str
    columns: list[str]

    def text(self) -> str:
        """Its heading, comment and columns."""
        columns = "\n".join(f"    {column}" for column in self.columns)
        return f"### {self.name}\n\n{self.comment}\n\n{columns}\n"


def reference(connection: psycopg.Connection[Any]) -> str:
    """The text of the page, of a database that has the schema."""
    functions = _read(connection, _Function, _FUNCTIONS)
    relations = _read(connection, _Relation, _RELATIONS)
    views = [each for each in relations if each.kind == "v"]
    kept = [each for each in relations if each.kind != "v"]
    parts = [_HEAD]
    for title, (files, beginnings) in _FLOORS.items():
        here, beginning = _defined_in(tuple(files.split())), tuple(beginnings.split())
        parts.append(f"## {title}\n")
        parts.extend(each.text() for each in functions if each.name in here)
        parts.extend(each.text() for each in views if each.name in here)
        mine = [each for each in kept if each.name.startswith(beginning)]
        parts.extend(each.text() for each in mine if each.kind == "c")
        if tables := [f"| `{each.name}` | {each.comment} |" for each in mine if each.kind != "c"]:
            parts.append("\n".join(("| tables | |", "|---|---|", *tables, "")))
    return "\n".join(parts).replace("timestamp with time zone", "timestamptz")


def _read(
    connection: psycopg.Connection[Any], of: type[_Row], statement: LiteralString
) -> list[_Row]:
    with connection.cursor(row_factory=class_row(of)) as cursor:
        return cursor.execute(statement).fetchall()


def _defined_in(beginnings: tuple[str, ...]) -> set[str]:
    """The functions and views that the files of the api that begin so define."""
    texts = (script.text for script in api() if script.path.name.startswith(beginnings))
    return {name for text in texts for name in _DEFINED.findall(text)}


def _block(parts: list[str], before_one: str = "") -> str:
    """One in its line, several to a line of their own each."""
    between = ",\n        "
    return (before_one if len(parts) < 2 else between[1:]) + between.join(parts)


def _main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="pgsync-reference-") as folder,
        EmbeddedServer(Path(folder) / "server", settings={"fsync": "off"}) as server,
    ):
        migrate(server.dsn)
        with psycopg.connect(server.dsn) as connection:
            sys.stdout.write(reference(connection))


if __name__ == "__main__":
    _main()
