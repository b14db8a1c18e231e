"""Status webhooks: repeated, out of order, sometimes before the message's id is stored.

A message moves forward only, in one order (sent, failed, delivered, read), and each of its moments
is stored once: so the same events leave the same recipient, however they are doubled and shuffled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.broadcasts.recipients import MOST_FAILURES, SUPPRESS
from pgsync.modules.whatsapp.answers import STOPPING, Answer, answer_to, default_wait

__all__ = ["STATUSES", "Statuses"]

STATUSES = ("sent", "delivered", "read", "failed")

logger = logging.getLogger("pgsync.modules.broadcasts")

# Messages of older versions do not say when the campaign was made.
_CALLBACK = re.compile(r"campaign-(\d{1,18})(?:-(\d{1,18}))?:(\d{1,18})\.(\d{1,9})")

# The callback data names the attempt, so it finds also those whose answer was never recorded, and
# those that are to be tried again: what was accepted all the same is not sent a second time.
_FIND = text(
    """
    SELECT r.id FROM pgsync_modules.campaign_recipient AS r
    WHERE r.message_id = :message_id
       OR (r.message_id IS NULL AND r.id = :recipient_id AND r.campaign_id = :campaign_id
           AND r.attempt = :attempt AND r.state IN ('pending', 'sending', 'unknown')
           AND (CAST(:made AS bigint) IS NULL OR EXISTS (
               SELECT FROM pgsync_modules.campaign AS c
               WHERE c.id = r.campaign_id AND extract(epoch FROM c.created_at) * 1000000 = :made)))
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
        failed_at = CASE WHEN m.failed THEN m.at END
    FROM (SELECT to_timestamp(:at) AS at, CAST(:status AS text) = 'failed' AS failed,
                 CAST(:status AS text) IN ('delivered', 'read') AS delivered,
                 ARRAY['sending', 'sent', 'failed', 'delivered', 'read'] AS steps) AS m
    WHERE r.id = :id AND NOT (m.failed AND r.state = 'pending')
      AND array_position(m.steps, CAST(:status AS text)) > array_position(m.steps,
          CASE WHEN r.state = 'pending' AND r.failed_at IS NOT NULL THEN 'failed'
               WHEN r.state IN ('pending', 'unknown') THEN 'sending' ELSE r.state END)
    """
)

# Of a campaign that has ended it stays failed. Nor is its row waited for: who makes all that failed
# pending again has it, and waits for this one.
_LATER = text(
    """
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = 'pending', message_id = NULL, failures = r.failures + 1,
        send_after = clock_timestamp() + :wait
    FROM (SELECT c.id FROM pgsync_modules.campaign AS c
          WHERE c.id = (SELECT campaign_id FROM pgsync_modules.campaign_recipient WHERE id = :id)
            AND c.state IN ('scheduled', 'sending', 'paused') FOR SHARE SKIP LOCKED) AS k
    WHERE r.id = :id AND r.campaign_id = k.id AND r.state = 'failed' AND r.failures + 1 < :most
    """
)

_STOP = text(
    """
    UPDATE pgsync_modules.campaign AS c
    SET state = 'paused', state_reason = 'the API reports error ' || :code || ' of a message'
    FROM pgsync_modules.campaign_recipient AS r
    WHERE r.id = :id AND c.id = r.campaign_id AND c.state = 'sending'
    RETURNING c.id, c.state_reason
    """
)

_PARK = text(
    """
    INSERT INTO pgsync_modules.parked_status (message_id, status, at, error_code)
    VALUES (:message_id, CAST(:status AS text), to_timestamp(:at), :error_code)
    ON CONFLICT (message_id, status) DO NOTHING
    """
)

# Two may look at once, and neither waits for the other.
_UNPARK = """
    DELETE FROM pgsync_modules.parked_status AS p
    USING (
        SELECT q.message_id, q.status FROM pgsync_modules.parked_status AS q
        WHERE {which} EXISTS (SELECT FROM pgsync_modules.campaign_recipient AS r
                              WHERE r.message_id = q.message_id)
        FOR UPDATE OF q SKIP LOCKED
    ) AS known
    WHERE p.message_id = known.message_id AND p.status = known.status
    RETURNING p.message_id, p.status, extract(epoch FROM p.at), p.error_code
"""
_UNPARK_ALL = text(_UNPARK.format(which=""))
# A statement of its own, so that it is answered by the index however many are parked.
_UNPARK_SOME = text(_UNPARK.format(which="q.message_id = ANY (CAST(:message_ids AS text[])) AND"))

# Messages that no campaign sent have statuses too; the API repeats them for seven days at most.
_FORGET = text(
    "DELETE FROM pgsync_modules.parked_status"
    " WHERE parked_at < clock_timestamp() - interval '8 days'"
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
            if found is not None:
                return "recorded" if _move(session, {**event, "id": found}) else "old"
            session.execute(_PARK, event)
        # The id may have been stored since it was looked for. Whoever stores it looks for parked
        # statuses afterwards, and we look for the id after parking: one of the two finds the other.
        return "recorded" if self.unpark([message_id]) else "parked"

    def unpark(self, message_ids: Sequence[str] | None = None) -> int:
        """Apply parked statuses whose message is known by now, and say how many there were.

        ``message_ids`` names messages whose id has just been stored; without it all are looked at,
        and those that nobody will ask for any more are forgotten.
        """
        if message_ids is not None and not message_ids:
            return 0
        with self._sessions.begin() as session:
            if message_ids is None:
                session.execute(_FORGET)
                parked = session.execute(_UNPARK_ALL).all()
            else:
                parked = session.execute(_UNPARK_SOME, {"message_ids": list(message_ids)}).all()
            # A failure last: it is to be known whether something says otherwise.
            for message_id, status, at, error_code in sorted(parked, key=_is_failure):
                found = session.scalar(_FIND, {"message_id": message_id, **_named_by(None)})
                event = {
                    "id": found,
                    "message_id": message_id,
                    "status": status,
                    "at": float(at),
                    "error_code": error_code,
                }
                _move(session, event)
            return len(parked)


def _move(session: Session, event: dict[str, Any]) -> bool:
    """Move a recipient forward; False where it was that far already."""
    moved: Any = session.execute(_FORWARD, event)
    code = event["error_code"]
    if event["status"] == "failed" and code is not None:
        _heed(session, event["id"], code, news=bool(moved.rowcount))
    return bool(moved.rowcount)


def _heed(session: Session, recipient: int, code: int, *, news: bool) -> None:
    """Do about an error what the table says of it, as where a call is answered with it."""
    answer = answer_to(code)
    if answer is Answer.SUPPRESS_CONTACT:
        # For good, and so also where the failure itself came too late.
        session.execute(SUPPRESS, {"id": recipient})
    elif news and answer in STOPPING:
        for campaign_id, reason in session.execute(_STOP, {"id": recipient, "code": str(code)}):
            logger.error("campaign %s is paused: %s", campaign_id, reason)
    elif news and answer is Answer.RETRY_RECIPIENT_TOMORROW:
        wait = timedelta(seconds=default_wait(code) or 0.0)
        session.execute(_LATER, {"id": recipient, "wait": wait, "most": MOST_FAILURES})


def _is_failure(parked: Any) -> bool:
    return bool(parked.status == "failed")


def _named_by(callback_data: str | None) -> dict[str, int | None]:
    match = _CALLBACK.fullmatch(callback_data or "")
    names = ("campaign_id", "made", "recipient_id", "attempt")
    values = match.groups() if match else (None,) * len(names)
    return {
        name: None if value is None else int(value)
        for name, value in zip(names, values, strict=True)
    }
