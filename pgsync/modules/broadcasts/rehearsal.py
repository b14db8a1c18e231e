"""Before a campaign is sent: what would stop it, what it would say, and one message to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.modules.broadcasts.models import Campaign, CampaignRecipient
from pgsync.modules.broadcasts.quota import Quota
from pgsync.modules.broadcasts.values import unfit
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.models import Template, find_template

__all__ = ["Preflight", "PreflightFailed", "preflight", "previews"]

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
        *([] if template is None else unfit(session, campaign, _filling_of(template).slots)),
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
