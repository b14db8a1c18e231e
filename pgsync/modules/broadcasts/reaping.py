"""Campaigns that are to send, but whose job is gone: somebody deleted or cancelled it."""

from __future__ import annotations

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


class Reaper:
    """Finds campaigns without a live job."""

    def __init__(self, sessions: sessionmaker[Session], queue: str, task: str) -> None:
        self._sessions = sessions
        self._job = {"queue": queue, "task": task}

    def stranded(self) -> list[int]:
        """The campaigns that are due or sending, and for which nobody works."""
        with self._sessions() as session:
            return list(session.scalars(_STRANDED, self._job))
