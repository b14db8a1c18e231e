"""Is the server fit: its settings, and the room that is left on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal, LiteralString

import psycopg

from pgsync.doctor.finding import Check, Finding, asking

__all__ = ["SERVER"]

_CLOCK_SECONDS = 5.0


def _settings(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT s.name, s.setting, current_setting(s.name) FROM pg_settings s"
    )
    now = {name: (value, shown) for name, value, shown in rows}
    for name, good, level, why, remedy in _SETTINGS:
        value, shown = now[name]
        fit = value == good if good.isalpha() else (value == "0") == (good == "0")
        if fit:
            yield Finding(name, "ok", f"{name} is {shown}")
        else:
            yield Finding(name, level, f"{name} is {shown}: {why}", remedy)


# Name, what is good ("1" for anything but 0), how bad the rest is, why, and the remedy.
_SETTINGS: tuple[tuple[str, str, Literal["warning", "failure"], str, LiteralString], ...] = (
    (
        "track_counts",
        "on",
        "failure",
        "autovacuum hears of no dead rows, so the queues' tables only grow",
        "ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()",
    ),
    (
        "autovacuum",
        "on",
        "failure",
        "dead rows stay, so the queues' tables only grow",
        "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()",
    ),
    (
        "fsync",
        "on",
        "warning",
        "a crash of the machine can destroy the database",
        "ALTER SYSTEM RESET fsync; SELECT pg_reload_conf()",
    ),
    (
        "full_page_writes",
        "on",
        "warning",
        "a crash of the machine can leave pages half written",
        "ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf()",
    ),
    (
        "client_connection_check_interval",
        "1",
        "warning",
        "a client that was killed while it waited for a lock keeps its place in the line",
        "ALTER SYSTEM SET client_connection_check_interval = '2s'; SELECT pg_reload_conf()",
    ),
    (
        "idle_session_timeout",
        "0",
        "failure",
        "the server ends sessions that wait, and with them the locks they hold",
        "set it to 0 for the role of pgsync: ALTER ROLE ... SET idle_session_timeout = 0",
    ),
)


def _clock(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float").fetchone()
    after = time.time()
    assert row is not None
    # The answer was read at some moment between the two.
    apart = max(before - row[0], row[0] - after, 0.0)
    yield Finding(
        "clock",
        "ok" if apart < _CLOCK_SECONDS else "warning",
        f"the clocks of this machine and of the server are {apart:.3g} s apart; pgsync goes by the "
        "server's",
        None
        if apart < _CLOCK_SECONDS
        else "set both by NTP; times computed by an app (run_at) are off by as much",
    )


SERVER = (
    asking(
        "isolation",
        """
        SELECT 'failure', 'default_transaction_isolation is ' || i.level
                   || ': claims and locks of several processes would fail to serialize',
               'ALTER ROLE ... SET default_transaction_isolation = ''read committed'''
        FROM current_setting('default_transaction_isolation') AS i (level)
        WHERE i.level <> 'read committed'
        """,
        well="transactions are read committed",
        schema=False,
    ),
    Check("settings", _settings, schema=False),
    asking(
        "synchronous_commit",
        """
        SELECT CASE s.mode WHEN 'off' THEN 'warning' ELSE 'ok' END,
               'synchronous_commit is ' || s.mode || CASE s.mode
                   WHEN 'off' THEN ': a crash of the server forgets what was just acknowledged'
                   ELSE '' END,
               'ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf()'
        FROM current_setting('synchronous_commit') AS s (mode)
        """,
        schema=False,
    ),
    asking(
        "jit",
        """
        SELECT CASE WHEN j.mode = 'on' AND j.cost < 100000 THEN 'warning' ELSE 'ok' END,
               'jit is ' || j.mode
                   || CASE WHEN j.mode = 'on' THEN ' above a cost of ' || j.cost ELSE '' END
                   || '; pgsync''s hot functions do without',
               'ALTER ROLE ... SET jit = off, so that short queries are not compiled'
        FROM (SELECT current_setting('jit') AS mode,
                     current_setting('jit_above_cost')::numeric AS cost) AS j
        """,
        schema=False,
    ),
    asking(
        "connections",
        """
        SELECT CASE WHEN c.taken > 0.95 * c.most THEN 'failure'
                    WHEN c.taken > 0.8 * c.most THEN 'warning' ELSE 'ok' END,
               c.taken || ' of ' || c.most || ' connections are taken',
               'end idle clients, put PgBouncer before the apps, or raise max_connections'
        -- By database, which anybody may read: pg_stat_activity hides the kind of others' sessions.
        FROM (SELECT sum(d.numbackends) AS taken,
                     current_setting('max_connections')::int
                     - current_setting('superuser_reserved_connections')::int AS most
              FROM pg_stat_database AS d) AS c
        """,
        schema=False,
    ),
    asking(
        "locks",
        """
        SELECT CASE WHEN l.taken > 0.9 * l.most THEN 'failure'
                    WHEN l.taken > 0.5 * l.most THEN 'warning' ELSE 'ok' END,
               l.taken || ' of about ' || l.most || ' places of the lock table are taken',
               'raise max_locks_per_transaction, and restart the server'
        FROM (SELECT count(*) AS taken,
                     current_setting('max_locks_per_transaction')::bigint
                     * (current_setting('max_connections')::int
                        + current_setting('max_prepared_transactions')::int) AS most
              FROM pg_locks AS k WHERE NOT k.fastpath) AS l
        """,
        schema=False,
    ),
    asking(
        "notifications",
        """
        SELECT CASE WHEN n.usage > 0.8 THEN 'failure'
                    WHEN n.usage > 0.3 THEN 'warning' ELSE 'ok' END,
               'the queue of notifications is ' || round((100 * n.usage)::numeric, 1) || ' % full',
               'end the session that listens and stays in a transaction, among the first of '
                   || 'SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start'
        FROM pg_notification_queue_usage() AS n (usage)
        """,
        schema=False,
    ),
    asking(
        "transaction ids",
        """
        SELECT CASE WHEN x.age > 1500000000 THEN 'failure'
                    WHEN x.age > 600000000 THEN 'warning' ELSE 'ok' END,
               'the oldest transaction id is ' || x.age || ' transactions old, of 2 billion',
               'find what holds vacuum back (see the check vacuum), then VACUUM (FREEZE)'
        FROM (SELECT age(d.datfrozenxid) AS age FROM pg_database AS d
              WHERE d.datname = current_database()) AS x
        """,
        schema=False,
    ),
    Check("clock", _clock, schema=False),
)
"""Checks that need no schema."""
