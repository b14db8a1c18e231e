"""Changing tables in use: a transaction waits for each lock but a moment, and is tried again.

Whoever waits for a table's exclusive lock has everybody who comes later wait behind it, so a
migration that waits behind one long transaction would stop all traffic until that ends.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgsync.errors import PgsyncError
from pgsync.pauses import Pauses

__all__ = ["apply_in_short_tries"]

logger = logging.getLogger("pgsync.migrate")

_LOCK_WAIT = "400ms"
"""Below the server's usual ``deadlock_timeout`` of a second: so of two who wait for each other this
one yields, and no worker is cancelled."""


def apply_in_short_tries(
    connection: psycopg.Connection[Any], what: str, texts: Sequence[str], patience: float
) -> None:
    """Execute the texts in one transaction that waits at most 0.4 seconds for each lock.

    Where one does not come, all is rolled back and tried again, after up to 0.5 to 10
    seconds, for ``patience`` seconds in all. The log tells who is in the way.

    Raises:
        PgsyncError: if there was no moment without somebody in the way.
    """
    until = time.monotonic() + patience
    pauses = Pauses(0.5, 10.0)
    locks = _locks(connection, texts)
    while True:
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_WAIT])
                for lock in locks:
                    connection.execute(lock)
                for text in texts:
                    connection.execute(text.encode())
            return
        except (pg.LockNotAvailable, pg.DeadlockDetected):
            in_the_way = _in_the_way(connection)
        pause = next(pauses)
        if time.monotonic() + pause > until:
            raise PgsyncError(
                f"{what} was not applied: in {patience:g} s there was no moment in which its "
                f"tables were free; {in_the_way}. Nothing is half done: end that, and run pgsync "
                "migrate again"
            )
        logger.warning("%s waits its turn, and traffic goes on: %s", what, in_the_way)
        time.sleep(pause)
        # Traffic that goes another way than usual may go so all the time.
        random.shuffle(locks)


_ON_ITS_WAY = (
    "pgsync.job_ready",
    "pgsync.job_scheduled",
    "pgsync.job_waiting",
    "pgsync.job_running",
    "pgsync.job_finished",
)
"""The order in which a job, and a claim or a completion, goes through the tables."""

_CHANGED = re.compile(
    r"^(?:ALTER TABLE|CREATE (?P<index>(?:UNIQUE )?INDEX) \w+ ON) (?P<table>\w+\.\w+)", re.MULTILINE
)


def _locks(connection: psycopg.Connection[Any], texts: Sequence[str]) -> list[sql.Composed]:
    """Statements that lock the tables which the texts change, in an order in which traffic does.

    Whoever holds a table that traffic comes to later, and waits for one that it came from, waits in
    vain: traffic waits for him.
    """
    modes: dict[str, str] = {}
    for text in texts:
        for change in _CHANGED.finditer(text):
            # An index lets others read meanwhile.
            mode = "SHARE" if change["index"] else "ACCESS EXCLUSIVE"
            modes[change["table"]] = min(mode, modes.get(change["table"], mode))
    present = connection.execute(
        "SELECT t.name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(t.name) IS NOT NULL",
        [list(modes)],
    )
    # Claims hold the row of their worker from the beginning, and everybody looks for idle ones.
    last = len(_ON_ITS_WAY)
    places = {name: place for place, name in enumerate(_ON_ITS_WAY)} | {"pgsync.worker": last + 1}
    tables = sorted((name for (name,) in present), key=lambda name: (places.get(name, last), name))
    return [
        sql.SQL("LOCK TABLE {} IN {} MODE").format(
            sql.Identifier(*name.split(".")),
            sql.SQL("SHARE") if modes[name] == "SHARE" else sql.SQL("ACCESS EXCLUSIVE"),
        )
        for name in tables
    ]


def _in_the_way(connection: psycopg.Connection[Any]) -> str:
    rows = connection.execute(_OPEN_TRANSACTIONS).fetchall()
    return "in the way is " + "; ".join(row[0] for row in rows) if rows else "others were quicker"


# Another role's session shows neither its start nor its query; it is told of all the same.
_OPEN_TRANSACTIONS: LiteralString = """
SELECT 'process ' || a.pid || ' of ' || coalesce(a.usename, 'the server')
       || coalesce(' (' || nullif(a.application_name, '') || ')', '')
       || coalesce(', for ' || date_trunc('second', clock_timestamp() - a.xact_start) || ' in a transaction', '')
       || ', with ' || string_agg(DISTINCT l.relation::regclass::text, ', ')
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname IN ('pgsync', 'pgsync_modules')
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() AND c.relkind IN ('r', 'p')
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
GROUP BY a.pid, a.usename, a.application_name, a.xact_start
ORDER BY a.xact_start NULLS FIRST
LIMIT 3
"""  # noqa: E501
