"""Recipients: claimed under row locks before the call, recorded after it by the same attempt.

The API has no idempotency key. So a claim is committed before the call, and what is claimed is
never claimed again by itself: if the sender dies in between, nobody can know whether the message
was accepted, and the recipient becomes ``unknown``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.modules.broadcasts.quota import Quota

__all__ = ["MOST_FAILURES", "SUPPRESS", "Claim", "Recipients"]

MOST_FAILURES = 10
"""With so many errors of its own a recipient has failed, whatever else could be tried."""

# Opt-outs are looked at once more here: this is the last moment before the call. So are a pause
# and a disabled connection, in the same statement, so that neither is overlooked, and the end of a
# limited-time offer: a campaign may take days.
# With "campaign_id = :campaign_id" the order would be that of the primary key too, which is then
# walked from its beginning past all that are done: a claim took the longer the more there were.
_CLAIM = text(
    """
    WITH picked AS (
        SELECT r.id, CASE
                   WHEN EXISTS (
                       SELECT FROM pgsync_modules.contact AS c
                       JOIN pgsync_modules.campaign AS k ON k.workspace_id = c.workspace_id
                       WHERE k.id = :campaign_id AND c.phone = r.phone
                         AND (c.status <> 'active' OR c.do_not_contact)) THEN 'opted out'
                   WHEN to_timestamp(CAST(substring(
                            coalesce(nullif(r.parameters ->> 'offer.expires', ''),
                                     (SELECT k.constants ->> 'offer.expires'
                                      FROM pgsync_modules.campaign AS k WHERE k.id = :campaign_id))
                            FROM '^[0-9]{13}$') AS bigint) / 1000.0) <= clock_timestamp()
                       THEN 'the offer has ended' END AS skipped
        FROM pgsync_modules.campaign_recipient AS r
        WHERE r.campaign_id = ANY (ARRAY[CAST(:campaign_id AS bigint)]) AND r.state = 'pending'
          AND EXISTS (
              SELECT FROM pgsync_modules.campaign AS k
              JOIN pgsync_modules.connection AS n ON n.id = k.connection_id
              WHERE k.id = :campaign_id AND k.state = 'sending' AND n.disabled_at IS NULL
                AND pgsync_modules.quiet_for(k.quiet_from, k.quiet_until, k.quiet_zone) IS NULL)
          AND (r.send_after IS NULL OR r.send_after <= clock_timestamp())
        ORDER BY r.campaign_id, r.id LIMIT :batch
        FOR UPDATE OF r SKIP LOCKED
    )
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = CASE WHEN p.skipped IS NULL THEN 'sending' ELSE 'skipped' END,
        attempt = r.attempt + CASE WHEN p.skipped IS NULL THEN 1 ELSE 0 END,
        error = p.skipped,
        failed_at = NULL,
        lease_until = CASE WHEN p.skipped IS NULL THEN clock_timestamp() + :lease END
    FROM picked AS p WHERE r.id = p.id
    RETURNING r.id, r.phone, r.parameters, r.attempt, r.failures, r.state
    """
)

# Between the claim and the call somebody may have opted out or paused the campaign, or the claim
# may have been given up for lost, where this process stood still for minutes.
_STANDING = text(
    """
    SELECT CASE WHEN EXISTS (SELECT FROM pgsync_modules.contact AS c
                             WHERE c.workspace_id = k.workspace_id AND c.phone = r.phone
                               AND (c.status <> 'active' OR c.do_not_contact)) THEN 'skipped'
                WHEN k.state <> 'sending' OR n.disabled_at IS NOT NULL THEN 'pending'
                ELSE 'sending' END
    FROM pgsync_modules.campaign_recipient AS r
    JOIN pgsync_modules.campaign AS k ON k.id = r.campaign_id
    JOIN pgsync_modules.connection AS n ON n.id = k.connection_id
    WHERE r.id = :id AND r.attempt = :attempt AND r.state = 'sending'
    """
)

_SKIP = text(
    """
    UPDATE pgsync_modules.campaign_recipient
    SET state = 'skipped', error = 'opted out', lease_until = NULL
    WHERE id = :id AND attempt = :attempt AND state = 'sending'
    """
)

# Success is recorded also where the lease had passed: the message is out, whatever was thought.
# A crash of the server may forget the record of an outcome: its recipient becomes unknown, and is
# not sent to again. So unlike the claim it need not wait for the disk.
_SENT = text(
    """
    UPDATE pgsync_modules.campaign_recipient
    SET state = 'sent', message_id = :message_id, sent_at = clock_timestamp(),
        lease_until = NULL, send_after = NULL, error = NULL, error_code = NULL
    FROM set_config('synchronous_commit', 'off', true) AS quick
    WHERE id = :id AND attempt = :attempt AND state IN ('sending', 'unknown')
    """
)

_NOT_SENT = text(
    """
    UPDATE pgsync_modules.campaign_recipient
    SET state = CAST(:state AS text), error_code = :code, error = :error, lease_until = NULL,
        failures = failures + CAST(:counts AS integer),
        send_after = CASE WHEN CAST(:state AS text) = 'pending' THEN clock_timestamp() + :wait END,
        failed_at = CASE WHEN CAST(:state AS text) = 'failed' THEN clock_timestamp() END,
        unknown_at = CASE WHEN CAST(:state AS text) = 'unknown' THEN clock_timestamp() END
    FROM set_config('synchronous_commit', 'off', true) AS quick
    WHERE id = :id AND attempt = :attempt AND state = 'sending'
    """
)

_EXPIRE = text(
    """
    UPDATE pgsync_modules.campaign_recipient
    SET state = 'unknown', lease_until = NULL, unknown_at = clock_timestamp(),
        error = 'its sender was lost before the answer was recorded'
    WHERE campaign_id = :campaign_id AND state = 'sending'
      AND lease_until <= clock_timestamp()
    """
)

# Whoever is no contact yet becomes one, or the next campaign would not know.
SUPPRESS = text(
    """
    SELECT o.contact_id
    FROM pgsync_modules.campaign_recipient AS r
    JOIN pgsync_modules.campaign AS k ON k.id = r.campaign_id
    CROSS JOIN LATERAL pgsync_modules.opt_out(
        k.workspace_id, r.phone, 'whatsapp',
        format('campaign %s, recipient %s, message %s', k.id, r.id, r.message_id)) AS o
    WHERE r.id = :id
    """
)

# Only for a claim whose call was certainly not made.
_PUT_BACK = text(
    """
    UPDATE pgsync_modules.campaign_recipient
    SET state = 'pending', lease_until = NULL
    WHERE id = :id AND attempt = :attempt AND state = 'sending'
    """
)

_LEFT = text(
    """
    SELECT count(*) FILTER (WHERE state NOT IN ('pending', 'sending')),
           count(*),
           extract(epoch FROM min(CASE state WHEN 'pending' THEN send_after
                                             WHEN 'sending' THEN lease_until END)
                              - clock_timestamp())
    FROM pgsync_modules.campaign_recipient WHERE campaign_id = :campaign_id
    """
)

# Since the last start: whoever starts it again after a pause knows of the failures before.
_PROCESSED = text(
    """
    SELECT count(*) FILTER (WHERE r.state NOT IN ('pending', 'sending', 'skipped'))
               - max(c.processed_before),
           count(*) FILTER (WHERE r.state = 'failed') - max(c.failed_before)
    FROM pgsync_modules.campaign AS c
    JOIN pgsync_modules.campaign_recipient AS r ON r.campaign_id = c.id
    WHERE c.id = :campaign_id
    """
)

# The state is written out, so that the small index of the failed answers.
_FAILED = text(
    """
    SELECT (SELECT count(*) FROM pgsync_modules.campaign_recipient AS r
            WHERE r.campaign_id = c.id AND r.state = 'failed') - c.failed_before
    FROM pgsync_modules.campaign AS c WHERE c.id = :campaign_id
    """
)

_QUIET = text(
    """
    SELECT extract(epoch FROM pgsync_modules.quiet_for(quiet_from, quiet_until, quiet_zone))
    FROM pgsync_modules.campaign WHERE id = :campaign_id
    """
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A recipient that this sender, and nobody else, may call the API for, once."""

    id: int
    phone: str
    parameters: list[Any] | dict[str, Any]
    attempt: int
    failures: int = 0


class Recipients:
    """The recipients of one campaign. ``lease`` is how long a call may take at the longest.

    ``quota`` is the messaging limit that its claims count against.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        campaign_id: int,
        lease: timedelta = timedelta(minutes=5),
        quota: Quota | None = None,
    ) -> None:
        self._sessions = sessions
        self.campaign_id = campaign_id
        self._lease = lease
        self._quota = quota

    def claim(self, batch: int) -> tuple[list[Claim], int]:
        """Take up to ``batch`` recipients, committed when this returns, and count those skipped.

        None are taken unless the campaign is sending, over a connection that is not disabled,
        outside of its quiet hours, and within the messaging limit.
        """
        parameters = {"campaign_id": self.campaign_id, "lease": self._lease}
        skipped = 0
        while True:
            with self._sessions.begin() as session:
                left = self._quota.left(session) if self._quota is not None else None
                most = batch if left is None else min(batch, left)
                rows = session.execute(_CLAIM, {**parameters, "batch": most}).all()
                claimed = [Claim(*row[:5]) for row in rows if row.state == "sending"]
                if self._quota is not None:
                    self._quota.add(session, [claim.phone for claim in claimed])
            skipped += len(rows) - len(claimed)
            if claimed or not rows:
                return sorted(claimed, key=lambda claim: claim.id), skipped

    def held_up(self) -> tuple[str, float] | None:
        """What keeps all of them waiting, and for how many seconds; None where nothing does."""
        with self._sessions.begin() as session:
            quiet = session.scalar(_QUIET, {"campaign_id": self.campaign_id})
            if quiet is not None:
                return "waits for the end of its quiet hours", float(quiet)
            if self._quota is not None and self._quota.left(session) == 0:
                return "waits: the messaging limit is used up", self._quota.opens_in(session)
        return None

    def standing(self, claim: Claim) -> str:
        """The claim's state right before its call, which may be made where it is ``sending``.

        Else it is ``skipped`` (the person has opted out), ``pending`` again (the campaign was
        stopped), or ``unknown`` (the claim is no longer this sender's).
        """
        with self._sessions() as session:
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            named = {"id": claim.id, "attempt": claim.attempt}
            state: str = session.scalar(_STANDING, named) or "unknown"
            if state in ("skipped", "pending"):
                session.execute(_SKIP if state == "skipped" else _PUT_BACK, named)
            return state

    def put_back(self, claim: Claim) -> None:
        """Make a claim pending again whose call was certainly not made."""
        self._record(_PUT_BACK, {"id": claim.id, "attempt": claim.attempt})

    def sent(self, claim: Claim, message_id: str) -> None:
        """Record that the API accepted the message."""
        self._record(_SENT, {"id": claim.id, "attempt": claim.attempt, "message_id": message_id})

    def not_sent(
        self,
        claim: Claim,
        state: str,
        *,
        error: str,
        code: int | None = None,
        wait: float = 0.0,
        counts: bool = False,
    ) -> None:
        """Record ``failed``, ``unknown``, or ``pending`` again after ``wait`` seconds.

        ``counts`` where the error speaks against this recipient, and not against all.
        """
        parameters: dict[str, Any] = {
            "id": claim.id,
            "attempt": claim.attempt,
            "state": state,
            "code": code,
            "error": error[:1000],
            "wait": timedelta(seconds=wait),
            "counts": counts,
        }
        self._record(_NOT_SENT, parameters)

    def _record(self, statement: TextClause, parameters: dict[str, Any]) -> None:
        # One statement is its own transaction: two round trips fewer for each message.
        with self._sessions() as session:
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            session.execute(statement, parameters)

    def suppress(self, claim: Claim) -> None:
        """Mark the contact as opted out, in the campaign's workspace."""
        with self._sessions.begin() as session:
            session.execute(SUPPRESS, {"id": claim.id})

    def expire(self) -> int:
        """Mark those whose sender has let its lease pass as unknown, and say how many."""
        with self._sessions.begin() as session:
            expired: Any = session.execute(_EXPIRE, {"campaign_id": self.campaign_id})
            return int(expired.rowcount)

    def processed(self) -> tuple[int, int]:
        """How many have an outcome since the last start, and how many of them failed."""
        with self._sessions() as session:
            processed, failed = session.execute(_PROCESSED, {"campaign_id": self.campaign_id}).one()
        return processed or 0, failed or 0

    def failed(self) -> int:
        """How many failed since the last start; cheap."""
        with self._sessions() as session:
            return int(session.scalar(_FAILED, {"campaign_id": self.campaign_id}) or 0)

    def progress(self) -> tuple[int, int, float | None]:
        """How many are done, of how many, and in how many seconds there is something to do again.

        That is when one that waits may be sent to, or the lease of a lost sender ends. It reads
        all recipients: for the beginning and the end of a run, not for each batch.
        """
        with self._sessions() as session:
            done, total, seconds = session.execute(_LEFT, {"campaign_id": self.campaign_id}).one()
        return done, total, None if seconds is None else float(seconds)
