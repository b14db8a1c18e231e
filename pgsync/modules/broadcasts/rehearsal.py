"""Before a campaign is sent: what would stop it, what it would say, and one message to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import TextClause, func, select, text
from sqlalchemy.orm import Session

from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.modules.broadcasts.models import Campaign, CampaignRecipient
from pgsync.modules.broadcasts.quota import Quota
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.models import Template, find_template
from pgsync.modules.whatsapp.slots import Slot

__all__ = ["Preflight", "PreflightFailed", "preflight", "previews"]

# What a recipient has nothing for is filled by the campaign's constants, or stays empty. Whether
# that fits is found out once, so that of the many slots of a carousel only those are looked at for
# each recipient that some recipient fills, or has to fill. A list fills the variables of the body.
_UNFIT = text(
    """
    WITH filled AS MATERIALIZED (
        SELECT DISTINCT n.name
        FROM pgsync_modules.campaign_recipient AS r
        CROSS JOIN LATERAL jsonb_object_keys(
            CASE jsonb_typeof(r.parameters) WHEN 'object' THEN r.parameters ELSE '{}' END
        ) AS n (name)
        WHERE r.campaign_id = :campaign_id AND r.state = 'pending'
    ), slot AS MATERIALIZED (
        SELECT s.number, s.name, s.place, s.longest, p.pattern, o.fits
        FROM pgsync_modules.campaign AS k
        CROSS JOIN unnest(CAST(:names AS text[]), CAST(:places AS integer[]),
                          CAST(:patterns AS text[]), CAST(:longest AS integer[]),
                          CAST(:required AS boolean[]))
            WITH ORDINALITY AS s (name, place, pattern, longest, required, number)
        CROSS JOIN LATERAL (SELECT k.constants ->> s.name, '^(?:' || s.pattern || ')$')
            AS p (value, pattern)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN p.value IS NULL THEN NOT s.required
                        ELSE length(p.value) <= s.longest AND p.value ~ p.pattern END) AS o (fits)
        WHERE k.id = :campaign_id
          AND (NOT o.fits OR s.place IS NOT NULL OR s.name IN (SELECT f.name FROM filled AS f))
    )
    SELECT s.number, count(*) AS recipients, min(r.phone) AS first
    FROM pgsync_modules.campaign_recipient AS r
    CROSS JOIN slot AS s
    CROSS JOIN LATERAL (
        SELECT nullif(CASE jsonb_typeof(r.parameters)
                           WHEN 'array' THEN r.parameters ->> s.place
                           ELSE r.parameters ->> s.name END, '')) AS v (value)
    WHERE r.campaign_id = :campaign_id AND r.state = 'pending'
      AND NOT CASE WHEN v.value IS NULL THEN s.fits
                   ELSE length(v.value) <= s.longest AND v.value ~ s.pattern END
    GROUP BY s.number ORDER BY s.number
    """
)

# Apart, for the few templates that need it: with this function there are no parallel workers.
_NO_OBJECT = text(
    """
    SELECT s.number, count(*) AS recipients, min(r.phone) AS first
    FROM pgsync_modules.campaign_recipient AS r
    JOIN pgsync_modules.campaign AS k ON k.id = r.campaign_id
    CROSS JOIN unnest(CAST(:names AS text[])) WITH ORDINALITY AS s (name, number)
    WHERE r.campaign_id = :campaign_id AND r.state = 'pending'
      AND NOT pgsync_modules.is_json_object(
          coalesce(nullif(r.parameters ->> s.name, ''), k.constants ->> s.name))
    GROUP BY s.number ORDER BY s.number
    """
)

# More than the template takes is as wrong as less.
_TOO_MUCH = text(
    """
    SELECT count(*) AS recipients, min(r.phone) AS first
    FROM pgsync_modules.campaign_recipient AS r
    WHERE r.campaign_id = :campaign_id AND r.state = 'pending'
      AND CASE jsonb_typeof(r.parameters)
               WHEN 'array' THEN jsonb_array_length(r.parameters) > :variables
               ELSE EXISTS (SELECT FROM jsonb_object_keys(r.parameters) AS n (name)
                            WHERE n.name <> ALL (CAST(:names AS text[]))) END
    """
)

_STALE = text("SELECT clock_timestamp() - CAST(:at AS timestamptz) > interval '24 hours'")


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found. ``problems`` prevent the start, ``warnings`` do not.

    ``users_left`` is how many users the messaging limit lets be written to now; None: no limit.
    """

    recipients: int
    users_left: int | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it may start."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """For the command line."""
        return {"ok": self.ok, **asdict(self)}


class PreflightFailed(PgsyncError):
    """A campaign cannot start; ``report`` has all that is in the way."""

    def __init__(self, campaign_id: int, report: Preflight) -> None:
        super().__init__(f"campaign {campaign_id} cannot start: {'; '.join(report.problems)}")
        self.report = report


def preflight(session: Session, campaign_id: int) -> Preflight:
    """Look at a campaign's connection, template, recipients and quota, without any call.

    Raises:
        InvalidArgument: if there is no such campaign.
    """
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise InvalidArgument(f"there is no campaign {campaign_id}")
    connection = session.get_one(Connection, campaign.connection_id)
    template = _template_of(session, campaign)
    pending = session.scalar(
        select(func.count()).where(
            CampaignRecipient.campaign_id == campaign_id, CampaignRecipient.state == "pending"
        )
    )
    left = Quota(connection).left(session)
    problems = [
        *_connection_problems(connection),
        *_template_problems(campaign, template),
        # One that has begun is only to be completed then.
        *([] if pending or campaign.started_at else ["it has no recipients"]),
        *([] if template is None else _filling_problems(session, campaign, template)),
    ]
    warnings = []
    if template is not None and session.scalar(_STALE, {"at": template.last_synced_at}):
        warnings.append("the template was not synced for a day")
    if left is not None and left < (pending or 0):
        warnings.append(f"the messaging limit leaves {left} users for now; the others wait")
    return Preflight(pending or 0, left, tuple(problems), tuple(warnings))


def previews(session: Session, campaign_id: int, most: int) -> list[dict[str, str]]:
    """The first messages as they would read: ``to`` and ``text`` of each."""
    campaign = session.get_one(Campaign, campaign_id)
    template = _template_of(session, campaign)
    filling = Filling([]) if template is None else _filling_of(template)
    rows = session.execute(
        select(CampaignRecipient.phone, CampaignRecipient.parameters)
        .where(CampaignRecipient.campaign_id == campaign_id, CampaignRecipient.state == "pending")
        .order_by(CampaignRecipient.id)
        .limit(most)
    )
    return [
        {"to": phone, "text": filling.text(parameters, campaign.constants)}
        for phone, parameters in rows
    ]


def _template_of(session: Session, campaign: Campaign) -> Template | None:
    return find_template(session, campaign.connection_id, campaign.template_name, campaign.language)


def _filling_of(template: Template) -> Filling:
    return Filling(template.components, template.parameter_format)


def _connection_problems(connection: Connection) -> Iterator[str]:
    if connection.disabled_at is not None:
        yield f"its connection is disabled ({connection.disabled_reason}); enable it"


def _template_problems(campaign: Campaign, template: Template | None) -> Iterator[str]:
    name = f"template {campaign.template_name} ({campaign.language})"
    if template is None:
        yield f"{name} is not known; sync the connection's templates"
        return
    if not template.sendable:
        yield f"{name} is {template.status}, only APPROVED ones are sent"
    for problem in _filling_of(template).problems:
        yield f"{name} {problem}, which campaigns do not fill"


def _filling_problems(session: Session, campaign: Campaign, template: Template) -> Iterator[str]:
    slots = _filling_of(template).slots
    names = [slot.name for slot in slots]
    for name in campaign.constants:
        if name not in names:
            yield f"its constants fill {name}, and the template has no such slot"
    yield from _unfit(session, campaign, _UNFIT, slots)
    yield from _unfit(session, campaign, _NO_OBJECT, [slot for slot in slots if slot.rule.json])
    variables = sum(slot.place is not None for slot in slots)
    where = {"campaign_id": campaign.id, "names": names, "variables": variables}
    count, first = session.execute(_TOO_MUCH, where).one()
    if count:
        taken = ", ".join(names) or "none"
        yield f"{count} recipients (the first is {first}) fill more slots than there are: {taken}"


def _unfit(
    session: Session, campaign: Campaign, check: TextClause, slots: Sequence[Slot]
) -> Iterator[str]:
    """How many recipients have no fit value for a slot, for each such slot."""
    if not slots:
        return
    wrong = session.execute(
        check,
        {
            "campaign_id": campaign.id,
            "names": [slot.name for slot in slots],
            "places": [slot.place for slot in slots],
            "patterns": [slot.rule.pattern for slot in slots],
            "longest": [slot.rule.longest for slot in slots],
            "required": [slot.required for slot in slots],
        },
    )
    for number, count, first in wrong:
        slot = slots[number - 1]
        yield f"{count} recipients (the first is {first}) need for {slot.name} {slot.rule.words}"
