"""Whose each function is, and that its lists in ``sql/api/9_roles.sql`` go together."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = pytest.mark.core

ROLES = ("pgsync_reader", "pgsync_worker", "pgsync_admin")

_SOURCES = """
SELECT p.proname, CASE WHEN p.prosqlbody IS NULL THEN p.prosrc ELSE pg_get_functiondef(p.oid) END
FROM pg_proc AS p
WHERE p.pronamespace = 'pgsync'::regnamespace AND p.prokind IN ('f', 'p') AND NOT p.prosecdef
"""
_WRITES = r"(INSERT INTO|UPDATE|DELETE FROM) (?:ONLY )?pgsync\.(\w+)"


def sources(database: Any) -> dict[str, str]:
    """What each function does itself, without its texts and comments."""
    found: dict[str, str] = {}
    for name, source in database.execute(_SOURCES):
        plain = re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--.*", "", source))
        found[name] = found.get(name, "") + plain + ";"
    return found


def least_roles(database: Any) -> dict[str, str]:
    return dict(database.execute("SELECT f.function, f.role FROM pgsync.function_roles() AS f"))


def test_each_function_is_in_the_list_once_and_of_a_role(database: Any) -> None:
    listed = database.execute("SELECT f.function, f.role FROM pgsync.function_roles() AS f")
    rows = listed.fetchall()
    present = {
        row[0]
        for row in database.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pgsync'::regnamespace"
        )
    }
    # A new function is nobody's until sql/api/9_roles.sql says whose.
    assert present - {name for name, _ in rows} == set()
    assert {name for name, _ in rows} - present == set()
    assert len(rows) == len({name for name, _ in rows})
    assert {role for _, role in rows} == set(ROLES)


def test_who_may_call_a_function_may_call_what_it_calls(database: Any) -> None:
    of = least_roles(database)
    for name, source in sources(database).items():
        for called in re.findall(r"pgsync\.(\w+)\s*\(", source):
            if called in of and name in of:
                enough = ROLES.index(of[called]) <= ROLES.index(of[name])
                assert enough, f"{name} ({of[name]}) calls {called} ({of[called]})"


def test_who_may_read_a_view_may_call_what_it_calls(database: Any) -> None:
    of = least_roles(database)
    views = database.execute(
        "SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_class AS c WHERE c.relkind = 'v'"
        " AND c.relnamespace IN ('pgsync'::regnamespace, 'pgsync_modules'::regnamespace)"
    )
    for view, definition in views:
        for called in re.findall(r"pgsync\.(\w+)\(", definition):
            assert of.get(called, "pgsync_reader") == "pgsync_reader", f"{view} calls {called}"


def test_who_may_call_a_function_may_write_what_it_writes(database: Any) -> None:
    database.execute("SELECT pgsync.create_roles()")
    of = least_roles(database)
    for name, source in sources(database).items():
        for verb, table in re.findall(_WRITES, source) if name in of else ():
            privilege = verb.split()[0]
            check = "has_table_privilege" if privilege == "DELETE" else "has_any_column_privilege"
            row = database.execute(
                f"SELECT {check}(%s, to_regclass(%s), %s)",
                [of[name], f"pgsync.{table}", privilege],
            ).fetchone()
            # Partitions are their owner's to drop; the daemon does that by do_duty.
            assert row[0] is not False, f"{name} ({of[name]}) needs {privilege} on {table}"
