"""Merging staged rows into the contacts: under row locks, in the order of phone numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

__all__ = ["OnDuplicate", "count_staged", "lock_known", "merge_turn", "plan_lookups"]

OnDuplicate = Literal["skip", "fill", "overwrite"]

# A turn is joined to the contacts by one index lookup a number, whatever the planner believes of
# tables that an import fills while it runs. With free choice 100,000 rows took 62 seconds.
_PLAN = text("""
SELECT set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
""")

# All that write contacts lock them in this order, so that none of two waits for the other. The
# numbers come as one text: an array of them would be put together one by one.
_LOCK_KNOWN = text("""
SELECT known.phone
FROM (SELECT g.phone FROM string_to_table(:phones, ',') AS g (phone)
      ORDER BY g.phone COLLATE "C") AS b
CROSS JOIN LATERAL (
    SELECT c.phone
    FROM pgsync_modules.contact AS c
    WHERE c.workspace_id = :workspace_id AND c.phone = b.phone
    FOR UPDATE
) AS known
""")

# Which of a turn's contacts this import has made or changed already is what tells an update from a
# duplicate.
_LOCK = text("""
SELECT coalesce(array_agg(known.phone) FILTER (WHERE known.import_id = :import_id), '{}')
           AS touched,
       count(*) FILTER (WHERE known.is_out AND b.calls_active) AS outs
FROM (SELECT s.phone, s.calls_active FROM staged_contact AS s
      WHERE s.turn = :turn ORDER BY s.phone) AS b
CROSS JOIN LATERAL (
    SELECT c.phone, c.import_id, c.opted_out_at IS NOT NULL OR c.status = 'opted_out' AS is_out
    FROM pgsync_modules.contact AS c
    WHERE c.workspace_id = :workspace_id AND c.phone = b.phone
    FOR UPDATE
) AS known
""")

# What a row makes of a contact that is not known: an opt-out where it says both.
_NEW = """
SELECT s.phone, s.name, s.email, s.company, s.notes, s.tags, s.custom, s.status,
       CASE WHEN s.status = 'opted_out'
            THEN least(s.consent_at, clock_timestamp()) END AS opted_out_at,
       CASE WHEN s.opted_in AND s.status <> 'opted_out'
            THEN least(s.consent_at, clock_timestamp()) END AS opted_in_at,
       CASE WHEN s.opted_in OR s.status = 'opted_out'
            THEN coalesce(s.consent_source, 'import') END AS consent_source,
       CASE WHEN s.opted_in OR s.status = 'opted_out'
            THEN coalesce(s.consent_evidence, format('%s, row %s', CAST(:file_name AS text), s.row))
       END AS consent_evidence{also}
FROM staged_contact AS s
"""

_MERGE = """
WITH merged AS (
    INSERT INTO pgsync_modules.contact AS c
        (workspace_id, phone, name, email, company, notes, tags, custom, status, opted_out_at,
         opted_in_at, consent_source, consent_evidence, import_id)
    SELECT :workspace_id, n.*, :import_id
    FROM ({new} WHERE s.turn = :turn ORDER BY s.phone) AS n
    ON CONFLICT (workspace_id, phone) DO UPDATE
    SET {assignments},
        consent_source = CASE WHEN {is_told} THEN excluded.consent_source
                              ELSE c.consent_source END,
        consent_evidence = CASE WHEN {is_told} THEN excluded.consent_evidence
                                ELSE c.consent_evidence END,
        updated_at = clock_timestamp(),
        import_id = excluded.import_id
    WHERE {is_changed}
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
    duplicates = i.duplicates + n.staged - n.imported - n.updated,
    opt_outs_kept = i.opt_outs_kept + :outs
FROM counted AS n
WHERE i.id = :import_id
"""

# The same judgement without a change. A contact that no row of its own would change is met as it
# is by each of them, so that it counts as updated if any would.
_COUNT = """
SELECT count(DISTINCT excluded.phone) FILTER (WHERE c.id IS NULL) AS imported,
       count(DISTINCT c.id) FILTER (WHERE {is_changed}) AS updated,
       count(*) FILTER (WHERE (c.opted_out_at IS NOT NULL OR c.status = 'opted_out'
                               OR excluded.opted_out_before)
                        AND excluded.calls_active) AS opt_outs_kept,
       count(*) AS staged
FROM (SELECT n.*, bool_or(n.status = 'opted_out') OVER (
          PARTITION BY n.phone ORDER BY n.row
          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS opted_out_before
      FROM ({new}) AS n) AS excluded
LEFT JOIN pgsync_modules.contact AS c
  ON c.workspace_id = :workspace_id AND c.phone = excluded.phone
"""

_CALLS = ", s.row, s.calls_active"

# A blank cell is null, and null never wins over what is there. An opt-out can be added by a file,
# however it treats what is known, and is never taken back by one.
_CONSENT = {
    "status": """CASE WHEN excluded.status = 'opted_out' AND c.status <> 'blocked'
                      THEN 'opted_out' ELSE c.status END""",
    "opted_out_at": "coalesce(c.opted_out_at, excluded.opted_out_at)",
}
_OPT_IN = {
    "opted_in_at": """CASE WHEN c.opted_out_at IS NULL AND c.status <> 'opted_out'
                                AND excluded.opted_out_at IS NULL
                           THEN coalesce(c.opted_in_at, excluded.opted_in_at)
                           ELSE c.opted_in_at END""",
}
_FILL = {
    "name": "coalesce(c.name, excluded.name)",
    "email": "coalesce(c.email, excluded.email)",
    "company": "coalesce(c.company, excluded.company)",
    "notes": "coalesce(c.notes, excluded.notes)",
    "tags": """CASE WHEN excluded.tags <@ c.tags THEN c.tags ELSE ARRAY(
            SELECT t.tag FROM unnest(c.tags || excluded.tags) WITH ORDINALITY AS t (tag, at)
            GROUP BY t.tag ORDER BY min(t.at)) END""",
    "custom": "excluded.custom || c.custom",
}
_OVERWRITE = {
    "name": "coalesce(excluded.name, c.name)",
    "email": "coalesce(excluded.email, c.email)",
    "company": "coalesce(excluded.company, c.company)",
    "notes": "coalesce(excluded.notes, c.notes)",
    "tags": "CASE WHEN excluded.tags = '{}' THEN c.tags ELSE excluded.tags END",
    "custom": "c.custom || excluded.custom",
}
# A file makes nobody active again whom the workspace set aside: a blank cell reads as active.
_SET_ASIDE = {
    "status": """CASE WHEN excluded.status = 'opted_out' AND c.status <> 'blocked' THEN 'opted_out'
                      WHEN excluded.status IN ('inactive', 'blocked')
                           AND c.status IN ('active', 'inactive') THEN excluded.status
                      ELSE c.status END""",
}
_VALUES: dict[OnDuplicate, dict[str, str]] = {
    "skip": _CONSENT,
    "fill": _FILL | _CONSENT | _OPT_IN,
    "overwrite": _OVERWRITE | _CONSENT | _OPT_IN | _SET_ASIDE,
}


def _merge(values: dict[str, str]) -> TextClause:
    moments = {column: value for column, value in values.items() if column.endswith("_at")}
    merging = _MERGE.format(
        new=_NEW.format(also=""),
        assignments=", ".join(f"{column} = {value}" for column, value in values.items()),
        is_told=_is_changed(moments),
        is_changed=_is_changed(values),
    )
    return text(merging)


def _count(values: dict[str, str]) -> TextClause:
    return text(_COUNT.format(new=_NEW.format(also=_CALLS), is_changed=_is_changed(values)))


def _is_changed(values: dict[str, str]) -> str:
    before = ", ".join(f"c.{column}" for column in values)
    return f"(ROW ({before}) IS DISTINCT FROM ROW ({', '.join(values.values())}))"


_MERGES = {policy: _merge(values) for policy, values in _VALUES.items()}
_COUNTS = {policy: _count(values) for policy, values in _VALUES.items()}


def plan_lookups(session: Session) -> None:
    """From here on the transaction joins contacts by one index lookup a number."""
    session.execute(_PLAN)


def lock_known(session: Session, workspace_id: int, phones: Iterable[str]) -> set[str]:
    """Those of the numbers that are contacts, whose rows are locked until the transaction ends."""
    given = {"workspace_id": workspace_id, "phones": ",".join(phones)}
    return set(session.scalars(_LOCK_KNOWN, given))


def merge_turn(
    session: Session,
    import_id: int,
    workspace_id: int,
    file_name: str,
    on_duplicate: OnDuplicate,
    turn: int,
) -> None:
    """Merge a turn of what is staged in this transaction, and count it in ``contact_import``.

    Whoever is no contact becomes one. For one that is known, skip changes nothing but an opt-out,
    fill gives it what it lacks, and overwrite gives it all that a row has; later rows of a number
    count as if the contact had been known.
    """
    here = {"import_id": import_id, "workspace_id": workspace_id, "turn": turn}
    touched, outs = session.execute(_LOCK, here).one()
    told = {"file_name": file_name, "touched": touched, "outs": outs}
    session.execute(_MERGES[on_duplicate], here | told)


def count_staged(session: Session, workspace_id: int, on_duplicate: OnDuplicate) -> dict[str, int]:
    """What :func:`merge_turn` would count for all that is staged, all turns together."""
    given = {"workspace_id": workspace_id, "file_name": ""}
    imported, updated, kept, staged = session.execute(_COUNTS[on_duplicate], given).one()
    return {
        "imported": imported,
        "updated": updated,
        "duplicates": staged - imported - updated,
        "opt_outs_kept": kept,
    }
