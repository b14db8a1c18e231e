"""Sessions that stop between the statements of SQL functions, and go on when the test says so.

What a race needs is then not luck but a choice of the test: who makes the next step. No clock is
involved, and the same choices make the same history.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.errors import DeadlockDetected, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus

__all__ = ["Stage", "Stepper", "stop_at_rows", "stop_between_statements"]

_GATES = 7_700_076
_PATIENCE = 60.0
_WAITING: LiteralString = (
    "SELECT pid, locktype = 'advisory' AND classid IN (7700076, 7700077) FROM pg_locks"
    " WHERE NOT granted"
)

# Two gates in turn: a session that has passed one cannot pass the next before that is opened too.
_STOP: LiteralString = """
CREATE FUNCTION public.stop() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gate integer;
BEGIN
    IF current_setting('test.stops', true) = 'on' THEN
        gate := 7700076 + nextval('pg_temp.stops') % 2;
        PERFORM pg_advisory_lock(gate, pg_backend_pid());
        PERFORM pg_advisory_unlock(gate, pg_backend_pid());
    END IF;
    RETURN true;
END $$;
CREATE FUNCTION public.stop_at_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.stop();
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
"""


def stop_between_statements(database: psycopg.Connection[Any], functions: Iterable[str]) -> None:
    """Let steppers stop between any two statements of these functions of the schema."""
    database.execute(_STOP)
    for name in functions:
        row = database.execute(
            "SELECT pg_get_functiondef(oid), prosrc FROM pg_proc"
            " WHERE pronamespace = 'pgsync'::regnamespace AND proname = %s",
            [name],
        ).fetchone()
        assert row is not None
        definition, source = row
        declarations, body = source.split("BEGIN\n", 1)
        # Where others can be seen or can see; unlike PERFORM, ASSERT leaves FOUND as it is.
        stopping = ";\n".join(
            f"{statement}; ASSERT public.stop()" if "pgsync." in statement else statement
            for statement in body.split(";\n")
        )
        database.execute(definition.replace(source, f"{declarations}BEGIN\n{stopping}"))


def stop_at_rows(database: psycopg.Connection[Any], table: str) -> None:
    """Let steppers stop when a row's values are there, its numbers drawn, and the row is not."""
    database.execute(
        sql.SQL(
            "CREATE TRIGGER stop BEFORE INSERT OR UPDATE OR DELETE ON {}"
            " FOR EACH ROW EXECUTE FUNCTION public.stop_at_row()"
        ).format(sql.Identifier("pgsync", table))
    )


class Stepper:
    """A session that makes a step when it is told to. Get it from :meth:`Stage.stepper`."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("CREATE TEMP SEQUENCE stops")
        self.connection.execute("SET test.stops = on")
        # Of those who wait for each other one gives up soon.
        self.connection.execute("SET deadlock_timeout = '10ms'")
        self.pid = self.connection.info.backend_pid
        self.passed = 0
        self.busy = False
        self.deadlocked = False
        self.answer: list[tuple[bytes | None, ...]] = []

    def ask(self, statement: str) -> None:
        """Send a statement, and read its answer later."""
        self.answer, self.deadlocked = [], False
        self.connection.pgconn.send_query(statement.encode())
        self.busy = True

    @property
    def in_transaction(self) -> bool:
        """Whether it has begun a transaction."""
        return self.connection.info.transaction_status != TransactionStatus.IDLE

    def hear(self) -> None:
        """Take what has come of the answer."""
        pgconn = self.connection.pgconn
        pgconn.consume_input()
        while self.busy and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                self.busy = False
            elif result.status == ExecStatus.FATAL_ERROR:
                error = error_from_result(result)
                if not isinstance(error, DeadlockDetected):
                    raise error
                self.deadlocked = True
            elif result.status == ExecStatus.TUPLES_OK:
                self.answer = [
                    tuple(result.get_value(row, column) for column in range(result.nfields))
                    for row in range(result.ntuples)
                ]


class Stage:
    """The steppers of a test, of which one goes on at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._keeper = psycopg.connect(dsn, autocommit=True)
        self._steppers: list[Stepper] = []
        self._stopped: set[int] = set()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self._keeper.close()
        for stepper in self._steppers:
            stepper.connection.close()

    def stepper(self) -> Stepper:
        """One more session."""
        stepper = Stepper(self._dsn)
        for gate in (_GATES, _GATES + 1):
            self._keeper.execute("SELECT pg_advisory_lock(%s, %s)", [gate, stepper.pid])
        self._steppers.append(stepper)
        return stepper

    def ready(self) -> list[Stepper]:
        """Those who have been answered, or stand at a stop; the others wait for one of them."""
        return [s for s in self._steppers if not s.busy or s.pid in self._stopped]

    def ask(self, stepper: Stepper, statement: str) -> None:
        """Have one begin a statement."""
        stepper.ask(statement)
        self._settle()

    def go_on(self, stepper: Stepper) -> None:
        """Let one that stands at a stop go on to the next, or to its end."""
        stepper.passed += 1
        gate = {"gate": _GATES + stepper.passed % 2, "pid": stepper.pid}
        self._keeper.execute(
            "SELECT pg_advisory_unlock(%(gate)s, %(pid)s), pg_advisory_lock(%(gate)s, %(pid)s)",
            gate,
        )
        self._settle()

    def look_again(self) -> None:
        """See who has been answered or stands at a stop by now."""
        self._settle()

    def _settle(self) -> None:
        """Return when each has been answered, stands at a stop, or waits for another."""
        until = time.monotonic() + _PATIENCE
        while True:
            rows = self._keeper.execute(_WAITING).fetchall()
            for stepper in self._steppers:
                stepper.hear()
            if {s.pid for s in self._steppers if s.busy} <= {pid for pid, _ in rows}:
                self._stopped = {pid for pid, at_a_stop in rows if at_a_stop}
                if self.ready():  # Else they wait for each other, until one gives up.
                    return
            assert time.monotonic() < until, "a session neither answers nor waits"
