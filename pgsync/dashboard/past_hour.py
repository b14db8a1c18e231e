"""What ended in each minute of the past hour, as far as it has been counted."""

from __future__ import annotations

from typing import Any

from pgsync.dashboard.reading import Read

__all__ = ["read_minutes"]


async def read_minutes(read: Read, queue: str | None = None) -> list[dict[str, Any]]:
    """Sixty rows, of all queues or of one: jobs completed, and not; mean seconds waited and run."""
    return await read.rows(_MINUTES, {"queue": queue})


_MINUTES = """
WITH past AS (
    SELECT generate_series(this.minute - interval '59 minutes', this.minute, interval '1 minute')
        AS minute
    FROM (SELECT date_trunc('minute', m.counted_until, 'UTC') - interval '1 minute' AS minute
          FROM pgsync.throughput_mark AS m) AS this
)
SELECT p.minute,
       coalesce(sum(t.jobs) FILTER (WHERE t.outcome = 'completed'), 0)::bigint AS completed,
       coalesce(sum(t.jobs) FILTER (WHERE t.outcome <> 'completed'), 0)::bigint AS failed,
       extract(epoch FROM sum(t.waited) / sum(t.jobs))::float8 AS wait,
       extract(epoch FROM sum(t.ran) / sum(t.jobs))::float8 AS run
FROM past AS p
LEFT JOIN pgsync.throughput_minute AS t
    ON t.minute = p.minute AND (%(queue)s::text IS NULL OR t.queue = %(queue)s)
GROUP BY p.minute ORDER BY p.minute
"""
