"""Each SQL function with generated arguments: an answer, or an error that says what was wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.bad_input.sql_values import HOSTILE_TEXT, value_of

pytestmark = pytest.mark.core

_FUNCTIONS = """
SELECT n.nspname, p.proname, p.proargnames[:p.pronargs],
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t),
       p.pronargs - p.pronargdefaults
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname IN ('pgsync', 'pgsync_modules') AND p.prokind = 'f' AND p.pronargs > 0
  AND p.prorettype <> 'trigger'::regtype
  AND NOT 'anyelement'::regtype = ANY (p.proargtypes)
  AND coalesce(obj_description(p.oid, 'pg_proc'), '') NOT LIKE 'Internal:%'
ORDER BY 1, 2, p.oid
"""
_BY_FIRST_LETTER = ("abc", "def", "ghijkl", "mnopq", "r", "stu", "vwxyz")


class Function(NamedTuple):
    """A function as the catalogue has it; the last arguments may be left out."""

    schema: str
    name: str
    names: list[str]
    types: list[str]
    required: int

    def call(self, count: int) -> sql.Composed:
        """A statement that gives the first arguments by name, each as text cast to its type."""
        given = (
            sql.SQL("{} => {}::{}").format(sql.Identifier(name), sql.Placeholder(), _type(of))
            for name, of in zip(self.names[:count], self.types[:count], strict=True)
        )
        return sql.SQL("SELECT * FROM {}({})").format(
            sql.Identifier(self.schema, self.name), sql.SQL(", ").join(given)
        )


def _type(name: str) -> sql.SQL:
    return sql.SQL(name)  # type: ignore[arg-type]  # of the catalogue, as format_type wrote it


@pytest.fixture
def busy(database: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A database in which the small numbers and the plain names of the values mean something."""
    for statement in (
        "SELECT pgsync.add_jobs('report', array_fill('{}'::jsonb, ARRAY[5]))",
        "SELECT pgsync.register_worker('report', 'host', 1, '0', '{default}', 5)",
        "SELECT pgsync.claim_jobs(1, '{default}', 2)",
        "SELECT pgsync.rate_limit_hit('report', 3, '1 min')",
        "SELECT pgsync.begin_operation('report', 'report', '{}', 'report', 1, NULL, NULL)",
        "SELECT pgsync.add_schedule('report', 'report', '* * * * *')",
        "SET statement_timeout = '20s'",
    ):
        database.execute(statement.encode())
    return database


def _session_locks(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("letters", _BY_FIRST_LETTER)
def test_a_bad_argument_ends_in_an_error_about_it(
    busy: psycopg.Connection[Any], letters: str
) -> None:
    functions = [
        Function(*row)
        for row in busy.execute(_FUNCTIONS.encode()).fetchall()
        if row[1][0] in letters
    ]
    assert functions
    for function in functions:
        _try(busy, function)
        # A rollback gives back no lock of the session that a call was granted.
        busy.execute("SELECT pg_advisory_unlock_all()")


def _try(connection: psycopg.Connection[Any], function: Function) -> None:
    values = st.tuples(
        st.integers(function.required, len(function.names)),
        st.tuples(*(value_of(each) for each in function.types)),
    )

    @settings(
        max_examples=25,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def one(drawn: tuple[int, tuple[Any, ...]]) -> None:
        count, arguments = drawn
        locks = _session_locks(connection)
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(function.call(count), arguments[:count])
        except psycopg.Error as error:
            state = error.sqlstate or ""
            if "numbered" in function.name and state == "23505":
                return  # These promise ids of their own drawing; one may be another job's here.
            # Class 22 is of values that cannot be; PS is pgsync's own.
            assert state.startswith(("22", "PS")), f"{function.name}{arguments[:count]!r:.500}"
            assert _session_locks(connection) == locks, f"{function.name} kept a lock"

    one()


@pytest.mark.parametrize("text", HOSTILE_TEXT, ids=lambda text: ascii(text)[:20])
def test_a_text_is_kept_as_it_is_or_refused(database: psycopg.Connection[Any], text: str) -> None:
    """Each place that keeps a name gives it back unchanged, and nothing of it is run."""
    places = {
        "SELECT pgsync.enqueue(%s)": "SELECT task FROM pgsync.jobs",
        "SELECT pgsync.enqueue('t', queue => %s)": "SELECT queue FROM pgsync.jobs",
        "SELECT pgsync.acquire_lock(%s, '1 h', 'me', 'exclusive', NULL, '1s', false, '0', false)": (
            "SELECT name FROM pgsync.locks"
        ),
        "SELECT pgsync.rate_limit_hit(%s, 1, '1 min')": "SELECT key FROM pgsync.rate_limits",
        "SELECT pgsync.add_schedule(%s, 't', '* * * * *')": "SELECT name FROM pgsync.schedules",
        "SELECT pgsync.set_limit(%s, 1, '1 min')": ("SELECT key FROM pgsync.limit_overrides"),
    }
    allowed = 0 < len(text.encode()) <= 1024
    for change, look in places.items():
        with database.transaction(force_rollback=True):
            try:
                with database.transaction():
                    database.execute(change.encode(), [text])
            except psycopg.errors.InvalidParameterValue:
                assert not allowed
            else:
                assert allowed
                assert (text,) in database.execute(look.encode()).fetchall()
