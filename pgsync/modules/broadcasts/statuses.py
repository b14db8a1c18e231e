"""Status webhooks: repeated, out of order, sometimes before the message's id is stored.

A message moves forward only (sent, delivered, read), a failure counts only before delivery, and
each of its moments is stored once, so that doubled events change nothing.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument

__all__ = ["STATUSES", "Statuses"]

STATUSES = ("sent", "delivered", "read", "failed")

_CALLBACK = re.compile(r"campaign-(\d{1,18}):(\d{1,18})\.(\d{1,9})")

# The callback data names the attempt, so it finds also those whose answer was never recorded.
_FIND = text(
    """
    SELECT r.id FROM pgsync_modules.campaign_recipient AS r
    WHERE r.message_id = :message_id
       OR (r.message_id IS NULL AND r.id = :recipient_id AND r.campaign_id = :campaign_id
           AND r.attempt = :attempt AND r.state IN ('sending', 'unknown'))
    FOR UPDATE
    """
)

_FORWARD = text(
    """
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = CAST(:status AS text),
        message_id = :message_id,
        lease_until = NULL,
        error = CASE WHEN m.failed THEN coalesce(r.error, 'the API reports a failure') END,
        error_code = CASE WHEN m.failed THEN CAST(:error_code AS integer) END,
        sent_at = coalesce(r.sent_at, CASE WHEN NOT m.failed THEN m.at END),
        delivered_at = coalesce(r.delivered_at, CASE WHEN m.delivered THEN m.at END),
        read_at = coalesce(r.read_at, CASE WHEN CAST(:status AS text) = 'read' THEN m.at END),
        failed_at = CASE WHEN m.failed THEN m.at ELSE r.failed_at END
    FROM (SELECT to_timestamp(:at) AS at, CAST(:status AS text) = 'failed' AS failed,
                 CAST(:status AS text) IN ('delivered', 'read') AS delivered,
                 ARRAY['sending', 'sent', 'delivered', 'read'] AS steps) AS m
    WHERE r.id = :id AND CASE WHEN m.failed THEN r.state IN ('sending', 'unknown', 'sent')
        ELSE array_position(m.steps, CAST(:status AS text))
           > array_position(m.steps, CASE r.state WHEN 'unknown' THEN 'sending' ELSE r.state END)
        END
    """
)

_PARK = text(
    """
    INSERT INTO pgsync_modules.parked_status (message_id, status, at, error_code)
    VALUES (:message_id, CAST(:status AS text), to_timestamp(:at), :error_code)
    ON CONFLICT (message_id, status) DO NOTHING
    """
)

_UNPARK = text(
    """
    DELETE FROM pgsync_modules.parked_status AS p
    USING pgsync_modules.campaign_recipient AS r
    WHERE p.message_id = r.message_id
    RETURNING p.message_id, p.status, extract(epoch FROM p.at), p.error_code
    """
)


class Statuses:
    """Applies statuses to recipients."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def record(
        self,
        message_id: str,
        status: str,
        at: float,
        callback_data: str | None = None,
        error_code: int | None = None,
    ) -> str:
        """Record a status (``at`` in Unix seconds): ``recorded``, ``old``, or ``parked``.

        Raises:
            InvalidArgument: if the status is not one of :data:`STATUSES`.
        """
        if status not in STATUSES:
            raise InvalidArgument(f"status {status!r} is not one of {', '.join(STATUSES)}")
        event: dict[str, Any] = {
            "message_id": message_id,
            "status": status,
            "at": at,
            "error_code": error_code,
        }
        with self._sessions.begin() as session:
            found = session.scalar(_FIND, {"message_id": message_id, **_named_by(callback_data)})
            if found is None:
                session.execute(_PARK, event)
                return "parked"
            moved: Any = session.execute(_FORWARD, {**event, "id": found})
            return "recorded" if moved.rowcount else "old"

    def unpark(self) -> int:
        """Apply parked statuses whose message is known by now, and say how many there were."""
        with self._sessions.begin() as session:
            parked = session.execute(_UNPARK).all()
            for message_id, status, at, error_code in parked:
                found = session.scalar(_FIND, {"message_id": message_id, **_named_by(None)})
                event = {
                    "id": found,
                    "message_id": message_id,
                    "status": status,
                    "at": float(at),
                    "error_code": error_code,
                }
                session.execute(_FORWARD, event)
            return len(parked)


def _named_by(callback_data: str | None) -> dict[str, int | None]:
    match = _CALLBACK.fullmatch(callback_data or "")
    campaign, recipient, attempt = (int(each) for each in match.groups()) if match else (None,) * 3
    return {"campaign_id": campaign, "recipient_id": recipient, "attempt": attempt}
