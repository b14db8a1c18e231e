"""Before a campaign is sent: what would stop it, what it would say, and one message to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.modules.broadcasts.models import Campaign, CampaignRecipient
from pgsync.modules.broadcasts.quota import Quota
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.models import Template

__all__ = ["Preflight", "PreflightFailed", "preflight", "previews"]

_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")

# What the API refuses: the wrong number of them, blank ones, breaks, tabs, long runs of blanks.
_UNFIT = text(
    r"""
    SELECT count(*), min(r.phone) FROM pgsync_modules.campaign_recipient AS r
    WHERE r.campaign_id = :campaign_id AND r.state = 'pending'
      AND (jsonb_array_length(r.parameters) <> :wanted OR EXISTS (
          SELECT FROM jsonb_array_elements_text(r.parameters) AS p (value)
          WHERE btrim(p.value) = '' OR length(p.value) > 1024 OR p.value ~ '[\n\r\t]| {5}'))
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
        *([] if pending else ["it has no recipients"]),
        *_variable_problems(session, campaign_id, template),
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
    body = _text_of(template, "BODY") if template is not None else ""
    rows = session.execute(
        select(CampaignRecipient.phone, CampaignRecipient.parameters)
        .where(CampaignRecipient.campaign_id == campaign_id, CampaignRecipient.state == "pending")
        .order_by(CampaignRecipient.id)
        .limit(most)
    )
    return [{"to": phone, "text": _filled(body, parameters)} for phone, parameters in rows]


def _template_of(session: Session, campaign: Campaign) -> Template | None:
    return session.scalar(
        select(Template).where(
            Template.connection_id == campaign.connection_id,
            Template.name == campaign.template_name,
            Template.language == campaign.language,
            Template.remotely_deleted_at.is_(None),
        )
    )


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
    if template.parameter_format == "NAMED" and _VARIABLE.search(_text_of(template, "BODY")):
        yield f"{name} has named variables, and campaigns fill positional ones"
    header: dict[str, Any] = next((c for c in template.components if c.get("type") == "HEADER"), {})
    if header.get("format", "TEXT") != "TEXT" or _VARIABLE.search(str(header.get("text", ""))):
        yield f"{name} has a header to fill, and campaigns fill the body"
    for component in template.components:
        for button in component.get("buttons") or ():
            if _VARIABLE.search(str(button.get("url", ""))):
                yield f"{name} has a button to fill, and campaigns fill the body"


def _variable_problems(
    session: Session, campaign_id: int, template: Template | None
) -> Iterator[str]:
    if template is None:
        return
    wanted = len(set(_VARIABLE.findall(_text_of(template, "BODY"))))
    unfit, first = session.execute(_UNFIT, {"campaign_id": campaign_id, "wanted": wanted}).one()
    if unfit:
        yield (
            f"{unfit} recipients (the first is {first}) do not fill the template's {wanted} "
            "variables with text of 1 to 1024 characters in one line"
        )


def _text_of(template: Template, kind: str) -> str:
    for component in template.components:
        if str(component.get("type", "")).upper() == kind:
            return str(component.get("text") or "")
    return ""


def _filled(body: str, parameters: list[str]) -> str:
    def value(match: re.Match[str]) -> str:
        number = int(match[1]) if match[1].isdigit() else 0
        return str(parameters[number - 1]) if 0 < number <= len(parameters) else match[0]

    return _VARIABLE.sub(value, body)
