"""What died with its worker, or by hand: the jobs of campaigns that are to send, and claims."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

__all__ = ["Reaper"]

# Who calls the operation directly has its lock and no job.
_STRANDED = text(
    """
    SELECT c.id FROM pgsync_modules.campaign AS c
    WHERE c.state IN ('scheduled', 'sending')
      AND (c.scheduled_at IS NULL OR c.scheduled_at <= clock_timestamp())
      AND NOT EXISTS (
          SELECT FROM pgsync.jobs AS j
          WHERE j.queue = :queue AND j.task = :task AND j.args ->> 'campaign_id' = c.id::text)
      AND NOT EXISTS (SELECT FROM pgsync.locks AS l WHERE l.name = 'campaign_send:' || c.id)
    ORDER BY c.id
    """
)

# Of a campaign that sends, its next run does this.
_EXPIRE = text(
    """
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = 'unknown', lease_until = NULL, unknown_at = clock_timestamp(),
        error = 'its sender was lost before the answer was recorded'
    FROM pgsync_modules.campaign AS c
    WHERE c.id = r.campaign_id AND c.state NOT IN ('scheduled', 'sending')
      AND r.state = 'sending' AND r.lease_until <= clock_timestamp()
    """
)


class Reaper:
    """Finds campaigns without a live job, and the lost claims of those that were stopped."""

    def __init__(self, sessions: sessionmaker[Session], queue: str, task: str) -> None:
        self._sessions = sessions
        self._job = {"queue": queue, "task": task}

    def stranded(self) -> list[int]:
        """The campaigns that are due or sending, and for which nobody works."""
        with self._sessions() as session:
            return list(session.scalars(_STRANDED, self._job))

    def expire(self) -> int:
        """Mark those as unknown whose sender was lost, of campaigns that send no more."""
        with self._sessions.begin() as session:
            expired: Any = session.execute(_EXPIRE)
            return int(expired.rowcount)
