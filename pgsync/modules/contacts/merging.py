"""Merging a staged chunk into the contacts: under row locks, in the order of phone numbers."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

__all__ = ["OnDuplicate", "merge_staged"]

OnDuplicate = Literal["skip", "fill", "overwrite"]

# A turn is joined to the contacts by one index lookup a number, whatever the planner believes of
# tables that an import fills while it runs. With free choice 100,000 rows took 62 seconds.
_PLAN = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
""")

# All that write contacts lock them in this order, so that none of two waits for the other. Which of
# them this import has made or changed already is what tells an update from a duplicate.
_LOCK = text("""
SELECT coalesce(array_agg(known.phone) FILTER (WHERE known.import_id = :import_id), '{}')
FROM (SELECT s.phone FROM staged_contact AS s WHERE s.turn = :turn ORDER BY s.phone) AS b
CROSS JOIN LATERAL (
    SELECT c.phone, c.import_id FROM pgsync_modules.contact AS c
    WHERE c.workspace_id = :workspace_id AND c.phone = b.phone
    FOR UPDATE
) AS known
""")

# Somebody may add the very contact between the locks and this: then it is changed like the others.
_MERGE = """
WITH merged AS (
    INSERT INTO pgsync_modules.contact AS c
        (workspace_id, phone, name, email, company, notes, tags, custom, status, opted_out_at,
         import_id)
    SELECT :workspace_id, s.phone, s.name, s.email, s.company, s.notes,
           coalesce(string_to_array(s.tags, E'\\n'), '{{}}'), coalesce(s.custom, '{{}}'),
           coalesce(s.status, 'active'),
           CASE WHEN s.status = 'opted_out' THEN clock_timestamp() END,
           :import_id
    FROM staged_contact AS s
    WHERE s.turn = :turn
    ORDER BY s.phone
    ON CONFLICT (workspace_id, phone) {on_conflict}
    RETURNING c.phone, c.xmax = 0 AS is_new
),
counted AS (
    SELECT count(*) FILTER (WHERE m.is_new) AS imported,
           count(*) FILTER (WHERE NOT m.is_new
                            AND m.phone <> ALL (CAST(:touched AS text[]))) AS updated,
           (SELECT count(*) FROM staged_contact AS s WHERE s.turn = :turn) AS staged
    FROM merged AS m
)
UPDATE pgsync_modules.contact_import AS i
SET imported = i.imported + n.imported,
    updated = i.updated + n.updated,
    duplicates = i.duplicates + n.staged - n.imported - n.updated
FROM counted AS n
WHERE i.id = :import_id
"""

# A blank cell is null, and null never wins over what is there. An opt-out can be added by a file,
# and is never taken back by one.
_CHANGE = """DO UPDATE
    SET {assignments},
        opted_out_at = CASE WHEN {status} = 'opted_out'
                            THEN coalesce(c.opted_out_at, clock_timestamp())
                            ELSE c.opted_out_at END,
        updated_at = clock_timestamp(),
        import_id = excluded.import_id
    WHERE ({before}) IS DISTINCT FROM ({after})"""

_STATUS = """CASE WHEN excluded.status = 'opted_out' AND c.status <> 'blocked'
                      THEN 'opted_out' ELSE c.status END"""

_FILL = {
    "name": "coalesce(c.name, excluded.name)",
    "email": "coalesce(c.email, excluded.email)",
    "company": "coalesce(c.company, excluded.company)",
    "notes": "coalesce(c.notes, excluded.notes)",
    "tags": """CASE WHEN excluded.tags <@ c.tags THEN c.tags ELSE ARRAY(
            SELECT t.tag FROM unnest(c.tags || excluded.tags) WITH ORDINALITY AS t (tag, at)
            GROUP BY t.tag ORDER BY min(t.at)) END""",
    "custom": "excluded.custom || c.custom",
    "status": _STATUS,
}
_OVERWRITE = {
    "name": "coalesce(excluded.name, c.name)",
    "email": "coalesce(excluded.email, c.email)",
    "company": "coalesce(excluded.company, c.company)",
    "notes": "coalesce(excluded.notes, c.notes)",
    "tags": "CASE WHEN excluded.tags = '{}' THEN c.tags ELSE excluded.tags END",
    "custom": "c.custom || excluded.custom",
    "status": _STATUS,
}


def _statement(values: dict[str, str] | None) -> TextClause:
    if values is None:
        return text(_MERGE.format(on_conflict="DO NOTHING"))
    change = _CHANGE.format(
        assignments=", ".join(f"{column} = {value}" for column, value in values.items()),
        status=values["status"],
        before=", ".join(f"c.{column}" for column in values),
        after=", ".join(values.values()),
    )
    return text(_MERGE.format(on_conflict=change))


_STATEMENTS: dict[OnDuplicate, TextClause] = {
    "skip": _statement(None),
    "fill": _statement(_FILL),
    "overwrite": _statement(_OVERWRITE),
}


def merge_staged(
    session: Session, import_id: int, workspace_id: int, on_duplicate: OnDuplicate, turns: int
) -> None:
    """Merge what :func:`stage` staged in this transaction, and count it in ``contact_import``.

    For a contact that is known, skip changes nothing, fill gives it what it lacks, and overwrite
    gives it all that a row has; later rows of a number count as if the contact had been known.
    """
    session.execute(_PLAN)
    for turn in range(turns):
        given = {"import_id": import_id, "workspace_id": workspace_id, "turn": turn}
        touched = session.scalar(_LOCK, given)
        session.execute(_STATEMENTS[on_duplicate], given | {"touched": touched})
