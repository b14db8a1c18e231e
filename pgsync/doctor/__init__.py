"""The doctor: is the connection, the server, the schema fit for pgsync, and is the work done?

Each check is a row of a table (a name and a statement) or a small function, and stands alone; see
``finding.py``. What it says it has looked up there and then; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from pgsync.database.dsn import check_server
from pgsync.database.migrations import check_schema, functions_are_current
from pgsync.database.pooler import refuse_transaction_pooler
from pgsync.doctor.finding import Check, Finding, Level
from pgsync.doctor.server import SERVER
from pgsync.doctor.vacuum import BLOAT, old_snapshots
from pgsync.doctor.work import RIGHTS, WORK
from pgsync.errors import PgsyncError

__all__ = ["WORK", "Check", "Finding", "Level", "checks", "examine"]


def examine(
    connection: psycopg.Connection[Any], dsn: str, *, snapshot_age: float = 3600.0
) -> Iterator[Finding]:
    """Look at everything, and yield each finding as it is made.

    ``connection`` is an autocommit one to ``dsn``; ``snapshot_age`` is in seconds. Where the
    schema is not there, what needs it is left out. A check that breaks is a finding itself.
    """
    fit = True
    for check in checks(dsn, snapshot_age=snapshot_age):
        if check.schema and not fit:
            continue
        try:
            for finding in check.look(connection):
                fit = fit and not (check.name in _NEEDED and finding.level == "failure")
                yield finding
        except psycopg.Error as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield Finding(
                check.name,
                "warning",
                f"this could not be looked at: {reason}",
                "mend that, and run pgsync doctor again",
            )


def checks(dsn: str, *, snapshot_age: float = 3600.0) -> tuple[Check, ...]:
    """All checks, in the order in which they are made; ``dsn`` is looked at for a pooler."""
    return (
        _refusing("server", check_server, "use a server that is", well=_described),
        _refusing(
            "session",
            lambda connection: refuse_transaction_pooler(connection, dsn),
            "give --direct-dsn or PGSYNC_DIRECT_DSN, which leads past the pooler",
            well=lambda _: "each connection has a server session of its own",
        ),
        *SERVER,
        _refusing(
            "schema",
            check_schema,
            "pgsync migrate; or, where only the right is missing, GRANT pgsync_worker TO this role",
            well=lambda _: "it is this version's",
        ),
        Check("functions", _functions),
        *RIGHTS,
        old_snapshots(snapshot_age),
        *BLOAT,
        *WORK,
    )


_NEEDED = ("server", "schema")
"""Without these nothing else can be looked at."""


def _refusing(
    name: str,
    check: Callable[[psycopg.Connection[Any]], None],
    remedy: str,
    *,
    well: Callable[[psycopg.Connection[Any]], str],
) -> Check:
    """A check by one of those that stand at the door and raise."""

    def look(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        try:
            check(connection)
        except PgsyncError as error:
            yield Finding(name, "failure", str(error), remedy)
        else:
            yield Finding(name, "ok", well(connection))

    return Check(name, look, schema=False)


def _described(connection: psycopg.Connection[Any]) -> str:
    parameter = connection.info.parameter_status
    return (
        f"PostgreSQL {parameter('server_version')}, {parameter('server_encoding')}, "
        f"time zone {parameter('TimeZone')}, not read only"
    )


def _functions(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    if functions_are_current(connection):
        yield Finding("functions", "ok", "functions and views are this version's")
    else:
        yield Finding(
            "functions",
            "warning",
            "functions and views are those of another version of pgsync",
            "pgsync migrate, or upgrade pgsync here, whichever is older",
        )
