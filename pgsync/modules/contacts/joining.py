"""Merging contacts that are one person, with all that hangs on them, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

__all__ = ["join_contacts"]

_MERGE = text("""
SELECT contacts, recipients_moved, recipients_skipped
FROM pgsync_modules.merge_contacts(:workspace_id, :kept, :merged, :actor)
""")


def join_contacts(
    session: Session, workspace_id: int, keep: int, others: Sequence[int], actor: str
) -> dict[str, Any]:
    """Merge ``others`` into ``keep``, as ``pgsync_modules.merge_contacts`` does.

    Raises:
        InvalidArgument: if they are not different contacts of the workspace.
    """
    given = {"kept": [keep] * len(others), "merged": list(others), "actor": actor}
    row = session.execute(_MERGE, {"workspace_id": workspace_id, **given}).one()
    return dict(row._mapping)
