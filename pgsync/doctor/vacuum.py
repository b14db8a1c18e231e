"""Do dead rows go: who holds vacuum back, and which tables are full of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

from pgsync.doctor.finding import Check, Finding, asking

__all__ = ["BLOAT", "old_snapshots"]


def old_snapshots(seconds: float) -> Check:
    """Who has pinned the vacuum horizon for so long, and what would end it."""

    def look(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        rows = connection.execute(
            "SELECT concat_ws(' ', s.kind, s.pid::text, quote_literal(s.name), s.state),"
            " coalesce(date_trunc('second', s.age)::text, 'some time'), s.query, s.ended_by"
            " FROM pgsync.oldest_snapshot AS s"
            " WHERE s.age > make_interval(secs => %s)"
            " OR s.kind = 'replication slot' AND s.state = 'inactive'",
            [seconds],
        ).fetchall()
        for who, age, query, end in rows:
            doing = f": {query[:60]!r}" if query else ""
            yield Finding("vacuum", "warning", f"held back for {age} by {who}{doing}", end)
        if not rows:
            yield Finding("vacuum", "ok", f"no snapshot is older than {seconds:g} s")

    return Check("vacuum", look)


BLOAT = (
    asking(
        "dead rows",
        """
        SELECT 'warning', 'pgsync.' || t.relname || ' has ' || t.n_dead_tup || ' dead rows beside '
                   || t.n_live_tup || ' live ones, and was vacuumed '
                   || coalesce(date_trunc('second', v.at)::text, 'never'),
               'VACUUM pgsync.' || t.relname || '; where that frees nothing, see the check vacuum'
        FROM pg_stat_user_tables AS t
        CROSS JOIN LATERAL (SELECT greatest(t.last_vacuum, t.last_autovacuum) AS at) AS v
        WHERE t.schemaname = 'pgsync' AND t.n_dead_tup > greatest(t.n_live_tup, 100000)
          -- A busy queue has many for a minute; those of longer ago ought to be gone.
          AND coalesce(v.at < clock_timestamp() - interval '5 minutes', true)
        ORDER BY t.n_dead_tup DESC
        """,
        well="no table has more dead rows than live ones",
    ),
    asking(
        "autovacuum of tables",
        """
        SELECT 'failure', 'autovacuum is off for pgsync.' || c.relname,
               'ALTER TABLE pgsync.' || c.relname || ' RESET (autovacuum_enabled)'
        FROM pg_class AS c
        WHERE c.relnamespace = 'pgsync'::regnamespace
          AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                      WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean)
        """,
        well="autovacuum is on for each",
    ),
)
