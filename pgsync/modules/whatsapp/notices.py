"""What the Graph API tells about a template by webhook: its status, quality and category.

Webhooks come again, late and in any order. Each is kept as an event, once, and the latest of its
kind decides. One that is clearly older than the last sync is kept, and changes nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument

__all__ = ["NOTICES", "Notices"]

NOTICES = ("status", "quality", "category")

# A listing may have been read up to a sync's lock's ttl, five minutes, before it was merged.
_KNOWN = text(
    """
    SELECT t.id, t.last_synced_at - interval '5 minutes' > to_timestamp(:at) AS synced_since,
           CASE CAST(:kind AS text) WHEN 'status' THEN t.status WHEN 'category' THEN t.category
                                    ELSE t.quality_score ->> 'score' END AS before
    FROM pgsync_modules.template AS t
    JOIN pgsync_modules.connection AS n ON n.id = t.connection_id
    WHERE t.remote_id = :remote_id AND n.waba_id = :waba_id AND t.remotely_deleted_at IS NULL
    ORDER BY t.id
    FOR UPDATE OF t
    """
)

_NOTE = text(
    """
    INSERT INTO pgsync_modules.template_event AS e (template_id, event, before, after, said_at)
    VALUES (:id, :kind, :before, :value, to_timestamp(:at))
    ON CONFLICT (template_id, event, said_at, after) WHERE said_at IS NOT NULL DO NOTHING
    RETURNING NOT EXISTS (
        SELECT FROM pgsync_modules.template_event AS later
        WHERE later.template_id = e.template_id AND later.event = e.event
          AND later.said_at > e.said_at) AS latest
    """
)

_CHANGES: dict[str, TextClause] = {
    "status": text("UPDATE pgsync_modules.template SET status = :value WHERE id = :id"),
    "category": text("UPDATE pgsync_modules.template SET category = :value WHERE id = :id"),
    "quality": text(
        "UPDATE pgsync_modules.template SET quality_score = jsonb_build_object("
        " 'score', CAST(:value AS text), 'date', CAST(:at AS double precision)) WHERE id = :id"
    ),
}


class Notices:
    """Applies notices to templates."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def record(self, waba_id: str, remote_id: str, kind: str, value: str, at: float) -> str:
        """Record what a webhook says (``at`` in Unix seconds) of a template.

        ``kind`` is one of :data:`NOTICES`. The value is kept as it is, also one that is not known.
        Returns ``changed``, ``old`` (something later is known, or it came before), or ``unknown``
        (there is no such template here; the next sync brings it).

        Raises:
            InvalidArgument: for another kind.
        """
        if kind not in NOTICES:
            raise InvalidArgument(f"notice {kind!r} is not one of {', '.join(NOTICES)}")
        notice = {"remote_id": remote_id, "waba_id": waba_id, "kind": kind, "value": value}
        with self._sessions.begin() as session:
            # Several connections may share an account, and so its templates.
            known = session.execute(_KNOWN, {**notice, "at": at}).all()
            changed = [self._apply(session, each, kind, value, at) for each in known]
        return "unknown" if not known else "changed" if any(changed) else "old"

    def _apply(self, session: Session, known: Any, kind: str, value: str, at: float) -> bool:
        facts = {"id": known.id, "value": value, "at": at}
        latest = session.scalar(_NOTE, {**facts, "kind": kind, "before": known.before})
        if not latest or known.synced_since:
            return False
        session.execute(_CHANGES[kind], facts)
        return True
