"""Who a campaign is for: a filter of contacts, looked for once, and what fills its template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.database.json import to_json
from pgsync.errors import InvalidArgument

__all__ = ["Audience", "add_contacts", "add_phones", "check_phone", "check_variables"]

# What the contacts' table asks of a phone number, since who opts out becomes a contact.
_E164 = re.compile(r"\+[1-9][0-9]{2,14}")
_FIELD = re.compile(r"name|phone|email|company|custom\..{1,200}")

# Set-based, whatever their number; who opted out is left out here, and again when it is sent.
_ADD_CONTACTS = text(
    """
    INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, parameters)
    SELECT k.id, c.phone, (
        SELECT CASE WHEN k.slots IS NULL
                    THEN coalesce(jsonb_agg(v.value ORDER BY v.number), '[]')
                    ELSE coalesce(jsonb_object_agg(coalesce(k.slots[v.number], ''), v.value), '{}')
               END
        FROM (SELECT f.number, coalesce(
                  CASE WHEN f.field LIKE 'custom.%' THEN c.custom ->> substr(f.field, 8)
                       WHEN f.field = 'name' THEN coalesce(nullif(c.name, ''), c.phone)
                       WHEN f.field = 'phone' THEN c.phone
                       WHEN f.field = 'email' THEN c.email
                       WHEN f.field = 'company' THEN c.company END, '')
              FROM unnest(k.variables) WITH ORDINALITY AS f (field, number)) AS v (number, value))
    FROM pgsync_modules.campaign AS k
    JOIN pgsync_modules.contact AS c ON c.workspace_id = k.workspace_id
    WHERE k.id = :campaign_id AND c.status = 'active' AND NOT c.do_not_contact
      AND (CAST(:tags AS text[]) IS NULL OR c.tags && CAST(:tags AS text[]))
      AND c.custom @> CAST(:custom AS jsonb)
    ORDER BY c.id
    ON CONFLICT (campaign_id, phone) DO NOTHING
    """
)

_ADD_PHONES = text(
    """
    INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, parameters)
    SELECT :campaign_id, p.phone,
           coalesce(CAST(:parameters AS jsonb), jsonb_build_array(p.phone))
    FROM unnest(CAST(:phones AS text[])) WITH ORDINALITY AS p (phone, number)
    WHERE NOT EXISTS (
        SELECT FROM pgsync_modules.contact AS c
        JOIN pgsync_modules.campaign AS k ON k.workspace_id = c.workspace_id
        WHERE k.id = :campaign_id AND c.phone = p.phone
          AND (c.status <> 'active' OR c.do_not_contact))
    ORDER BY p.number
    ON CONFLICT (campaign_id, phone) DO NOTHING
    """
)


@dataclass(frozen=True, slots=True)
class Audience:
    """A filter of a workspace's active contacts: with one of the tags, and all of the fields."""

    tags: Sequence[str] | None = None
    custom: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the campaign's row keeps."""
        return {"tags": None if self.tags is None else list(self.tags), "custom": dict(self.custom)}


def check_phone(phone: str) -> None:
    """Raise InvalidArgument unless it is a phone number in E.164."""
    if not _E164.fullmatch(phone):
        raise InvalidArgument(f"{phone[:50]!r} is no phone number in E.164, like +4930123456")


def check_variables(variables: Sequence[str]) -> list[str]:
    """Return the fields.

    Raises:
        InvalidArgument: if a contact has no such field.
    """
    for each in variables:
        if not _FIELD.fullmatch(each):
            raise InvalidArgument(
                f"a contact has no field {each[:50]!r}; "
                "variables are name, phone, email, company or custom.FIELD"
            )
    return list(variables)


def add_contacts(session: Session, campaign_id: int, audience: Audience) -> int:
    """Add the audience to a campaign, in one statement, and return how many were new."""
    added: Any = session.execute(
        _ADD_CONTACTS,
        {
            "campaign_id": campaign_id,
            "tags": None if audience.tags is None else list(audience.tags),
            "custom": to_json(dict(audience.custom), "custom"),
        },
    )
    return int(added.rowcount)


def add_phones(
    session: Session, campaign_id: int, phones: Sequence[str], parameters: str | None
) -> int:
    """Add phone numbers with the parameters (JSON; by default the number) to a campaign."""
    added: Any = session.execute(
        _ADD_PHONES,
        {"campaign_id": campaign_id, "phones": list(phones), "parameters": parameters},
    )
    return int(added.rowcount)
