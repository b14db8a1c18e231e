"""Merging staged rows into the contacts, a range of phone numbers at a time.

A range holds all spellings of a number, so that a batch is complete in itself: it counts each
number once, and can be committed without the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

__all__ = ["Merged", "OnDuplicate", "merge_batch"]

OnDuplicate = Literal["skip", "fill", "overwrite"]

_FIND_END = text("""
SELECT max(phone) FROM (
    SELECT phone FROM pgsync_modules.contact_import_row
    WHERE import_id = :import_id AND phone > :after
    ORDER BY phone LIMIT :size
) AS batch
""")

# A batch is joined to the contacts by one index lookup a number, whatever the planner believes of
# tables that it has no statistics of yet: an import fills both while it runs. With free choice
# 100,000 rows took 62 seconds, most of them in joins of all with all.
_PLAN = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
""")

# In the order of phone numbers, as every import locks, so that none waits for each other.
_LOCK = text("""
SELECT count(*)
FROM (
    SELECT DISTINCT phone FROM pgsync_modules.contact_import_row
    WHERE import_id = :import_id AND phone > :after AND phone <= :until
    ORDER BY phone
) AS b
CROSS JOIN LATERAL (
    SELECT FROM pgsync_modules.contact AS c
    WHERE c.workspace_id = :workspace_id AND c.phone = b.phone
    FOR UPDATE
) AS locked
""")

_BATCH = """
    SELECT phone,
           count(*) AS spellings,
           {name} AS name,
           {email} AS email,
           {company} AS company,
           {notes} AS notes,
           string_to_array({tags}, E'\\n') AS tags,
           CASE WHEN bool_or(status = 'opted_out') THEN 'opted_out' ELSE {status} END AS status
    FROM pgsync_modules.contact_import_row
    WHERE import_id = :import_id AND phone > :after AND phone <= :until
    GROUP BY phone
"""

# A blank cell is null, and null never wins over what is there. An opt-out can be added by a file
# and is never taken back by one.
_CHANGE = """
    UPDATE pgsync_modules.contact AS c
    SET name = n.name, email = n.email, company = n.company, notes = n.notes, tags = n.tags,
        status = n.status, updated_at = clock_timestamp(),
        opted_out_at = CASE WHEN n.status = 'opted_out'
                            THEN coalesce(c.opted_out_at, clock_timestamp())
                            ELSE c.opted_out_at END
    FROM (
        SELECT k.id, {values}, {tags} AS tags,
               CASE WHEN b.status = 'opted_out' AND k.status <> 'blocked'
                    THEN 'opted_out' ELSE k.status END AS status
        FROM batch AS b
        CROSS JOIN LATERAL (
            SELECT * FROM pgsync_modules.contact AS found
            WHERE found.workspace_id = :workspace_id AND found.phone = b.phone OFFSET 0
        ) AS k
    ) AS n
    WHERE c.id = n.id
      AND (c.name, c.email, c.company, c.notes, c.tags, c.status)
          IS DISTINCT FROM (n.name, n.email, n.company, n.notes, n.tags, n.status)
    RETURNING 1
"""

_MERGE = """
WITH batch AS MATERIALIZED ({batch}),
changed AS ({change}),
inserted AS (
    INSERT INTO pgsync_modules.contact
        (workspace_id, phone, name, email, company, notes, tags, status, opted_out_at)
    SELECT :workspace_id, b.phone, b.name, b.email, b.company, b.notes, {distinct},
           coalesce(b.status, 'active'),
           CASE WHEN b.status = 'opted_out' THEN clock_timestamp() END
    FROM batch AS b
    LEFT JOIN LATERAL (
        SELECT id FROM pgsync_modules.contact AS found
        WHERE found.workspace_id = :workspace_id AND found.phone = b.phone OFFSET 0
    ) AS k ON true
    WHERE k.id IS NULL
    ORDER BY b.phone
    ON CONFLICT (workspace_id, phone) DO NOTHING
    RETURNING 1
),
merged AS (
    SELECT (SELECT count(*) FROM inserted) AS imported,
           (SELECT count(*) FROM changed) AS updated,
           (SELECT coalesce(sum(spellings), 0) FROM batch)::bigint AS rows
)
UPDATE pgsync_modules.contact_import AS i
SET imported = i.imported + m.imported,
    updated = i.updated + m.updated,
    duplicates = i.duplicates + m.rows - m.imported - m.updated,
    merged_through = :until
FROM merged AS m
WHERE i.id = :import_id
RETURNING m.rows
"""

_DISTINCT = """ARRAY(
    SELECT t.tag FROM unnest({tags}) WITH ORDINALITY AS t (tag, at)
    GROUP BY t.tag ORDER BY min(t.at))"""
_FIELDS = ("name", "email", "company", "notes")


def _first(column: str, order: str, *, blank: bool) -> str:
    among = "" if blank else f" FILTER (WHERE {column} IS NOT NULL)"
    return f"(array_agg({column} ORDER BY row {order}){among})[1]"


def _statement(on_duplicate: OnDuplicate) -> TextClause:
    """skip: a number's first row counts; fill: its first values; overwrite: its last."""
    order = "DESC" if on_duplicate == "overwrite" else "ASC"
    columns = {
        column: _first(column, order, blank=on_duplicate == "skip")
        for column in (*_FIELDS, "tags", "status")
    }
    if on_duplicate == "fill":
        columns["tags"] = "string_agg(tags, E'\\n' ORDER BY row)"
    ranks = ("b", "k") if on_duplicate == "overwrite" else ("k", "b")
    values = ", ".join(
        f"coalesce({ranks[0]}.{column}, {ranks[1]}.{column}) AS {column}" for column in _FIELDS
    )
    tags = "coalesce(b.tags, k.tags)"
    if on_duplicate == "fill":
        # What is there already stays as it is: no change, no new version of the row.
        union = _DISTINCT.format(tags="k.tags || b.tags")
        tags = f"CASE WHEN b.tags <@ k.tags OR b.tags IS NULL THEN k.tags ELSE {union} END"
    change = _CHANGE.format(values=values, tags=tags)
    return text(
        _MERGE.format(
            batch=_BATCH.format(**columns),
            change="SELECT 1 WHERE false" if on_duplicate == "skip" else change,
            distinct=_DISTINCT.format(tags="b.tags"),
        )
    )


_STATEMENTS: dict[OnDuplicate, TextClause] = {
    choice: _statement(choice) for choice in ("skip", "fill", "overwrite")
}


@dataclass(frozen=True, slots=True)
class Merged:
    """What one batch merged: its rows, and the last phone number of its range."""

    rows: int
    until: str


def merge_batch(
    session: Session,
    import_id: int,
    workspace_id: int,
    on_duplicate: OnDuplicate,
    after: str,
    size: int,
) -> Merged | None:
    """Merge the next ``size`` rows or so beyond the number ``after``; None where none is left.

    The counts in ``contact_import`` move in the same transaction.
    """
    given: dict[str, int | str] = {"import_id": import_id, "after": after}
    session.execute(_PLAN)
    until = session.scalar(_FIND_END, {**given, "size": size})
    if until is None:
        return None
    given |= {"workspace_id": workspace_id, "until": until}
    session.execute(_LOCK, given)
    rows = session.scalar(_STATEMENTS[on_duplicate], given)
    return Merged(rows or 0, until)
