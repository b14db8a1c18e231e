"""A campaign again: its failed or unknown recipients, or all of it as a new draft."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.errors import InvalidArgument
from pgsync.modules.broadcasts.models import Campaign

__all__ = ["RETRY_FAILED", "RETRY_UNKNOWN", "copy_campaign"]

# Who opted out is final. The claims before keep their attempts: callback data names each. The
# moment of the failure stays, so that a status which comes again is not taken for news.
RETRY_FAILED = text(
    """
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = 'pending', error = NULL, error_code = NULL, message_id = NULL, send_after = NULL,
        failures = 0
    WHERE r.campaign_id = :campaign_id AND r.state = 'failed'
      AND r.error_code IS DISTINCT FROM 131050
    """
)

# Whose message may have been accepted: only where no status came for so long, by choice.
RETRY_UNKNOWN = text(
    """
    UPDATE pgsync_modules.campaign_recipient AS r
    SET state = 'pending', error = NULL, error_code = NULL, send_after = NULL, failures = 0
    WHERE r.campaign_id = :campaign_id AND r.state = 'unknown'
      AND coalesce(r.unknown_at, '-infinity') <= clock_timestamp() - CAST(:age AS interval)
    """
)

_COPY = text(
    """
    INSERT INTO pgsync_modules.campaign (workspace_id, connection_id, name, template_name, language,
        audience, variables, slots, constants, send_delay, quiet_from, quiet_until, quiet_zone)
    SELECT workspace_id, connection_id, coalesce(:name, name), template_name, language,
        audience, variables, slots, constants, send_delay, quiet_from, quiet_until, quiet_zone
    FROM pgsync_modules.campaign WHERE id = :campaign_id
    RETURNING id
    """
)

_COPY_RECIPIENTS = text(
    """
    INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, parameters)
    SELECT :copy, r.phone, r.parameters
    FROM pgsync_modules.campaign_recipient AS r
    WHERE r.campaign_id = :campaign_id AND NOT EXISTS (
        SELECT FROM pgsync_modules.contact AS c
        JOIN pgsync_modules.campaign AS k ON k.workspace_id = c.workspace_id
        WHERE k.id = :campaign_id AND c.phone = r.phone
          AND (c.status <> 'active' OR c.do_not_contact))
    ORDER BY r.id
    """
)


def copy_campaign(session: Session, campaign_id: int, name: str | None) -> int:
    """Make a draft with the same settings, and the recipients that were added by hand.

    Raises:
        InvalidArgument: if there is no such campaign.
    """
    copied = session.execute(_COPY, {"campaign_id": campaign_id, "name": name}).one_or_none()
    if copied is None:
        raise InvalidArgument(f"there is no campaign {campaign_id}")
    copy: int = copied.id
    if session.get_one(Campaign, copy).audience is None:
        session.execute(_COPY_RECIPIENTS, {"campaign_id": campaign_id, "copy": copy})
    return copy
