"""What fills the messages of a campaign, judged by the server before the first is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.whatsapp.slots import Slot

__all__ = ["unfit"]

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

# What a pattern cannot tell of those that it lets through. Apart, for the few templates that need
# it: with this function there are no parallel workers.
_UNTRUE = text(
    """
    SELECT s.number, count(*) AS recipients, min(r.phone) AS first
    FROM pgsync_modules.campaign_recipient AS r
    JOIN pgsync_modules.campaign AS k ON k.id = r.campaign_id
    CROSS JOIN unnest(CAST(:names AS text[]), CAST(:patterns AS text[]),
                      CAST(:longest AS integer[]), CAST(:also AS text[]))
        WITH ORDINALITY AS s (name, pattern, longest, also, number)
    CROSS JOIN LATERAL (
        SELECT coalesce(nullif(r.parameters ->> s.name, ''), k.constants ->> s.name)) AS v (value)
    WHERE r.campaign_id = :campaign_id AND r.state = 'pending' AND s.also IS NOT NULL
      AND CASE WHEN length(v.value) <= s.longest AND v.value ~ ('^(?:' || s.pattern || ')$')
               THEN NOT CASE s.also
                   WHEN 'object' THEN pgsync_modules.is_json_object(v.value)
                   WHEN 'future' THEN to_timestamp(v.value::bigint / 1000.0) > pgsync.clock() END
          END
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


def unfit(session: Session, campaign: Campaign, slots: Sequence[Slot]) -> Iterator[str]:
    """What is wrong with the values of a campaign's pending recipients, in words."""
    names = [slot.name for slot in slots]
    for name in campaign.constants:
        if name not in names:
            yield f"its constants fill {name}, and the template has no such slot"
    yield from _unfit_values(session, campaign, slots)
    variables = sum(slot.place is not None for slot in slots)
    where = {"campaign_id": campaign.id, "names": names, "variables": variables}
    count, first = session.execute(_TOO_MUCH, where).one()
    if count:
        taken = ", ".join(names) or "none"
        yield f"{count} recipients (the first is {first}) fill more slots than there are: {taken}"


def _unfit_values(session: Session, campaign: Campaign, slots: Sequence[Slot]) -> Iterator[str]:
    """How many recipients have no fit value for a slot, for each such slot."""
    given = {
        "campaign_id": campaign.id,
        "names": [slot.name for slot in slots],
        "places": [slot.place for slot in slots],
        "patterns": [slot.rule.pattern for slot in slots],
        "longest": [slot.rule.longest for slot in slots],
        "required": [slot.required for slot in slots],
        "also": [slot.rule.also for slot in slots],
    }
    wrong = list(session.execute(_UNFIT, given))
    if any(slot.rule.also for slot in slots):
        wrong += session.execute(_UNTRUE, given)
    for number, slot in enumerate(slots, 1):
        found = [(count, first) for of, count, first in wrong if of == number]
        if found:
            count, first = sum(each[0] for each in found), min(each[1] for each in found)
            need = f"need for {slot.name} {slot.rule.words}"
            yield f"{count} recipients (the first is {first}) {need}"
