"""The state of one operation, to embed in another app's page: a fragment, or JSON, with a tag."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pgsync.dashboard.formats import json_value
from pgsync.dashboard.reading import Read

__all__ = ["indicator_tag", "read_indicator"]


async def read_indicator(read: Read, operation: str, key: str) -> dict[str, Any]:
    """The operation's current run on a key, or else its last; state ``never`` without any."""
    found = await read.row(
        "SELECT coalesce(o.state, 'never') AS state, o.id, o.actor, o.requested_at, o.finished_at,"
        " o.done, o.total, o.error, o.blocked_by FROM (SELECT) AS one"
        " LEFT JOIN pgsync.operation_status(%(operation)s, %(key)s) AS o ON true",
        {"operation": operation, "key": key},
    )
    assert found is not None
    found = {"operation": operation, "key": key, **found}
    return {name: json_value(value) for name, value in found.items()}


def indicator_tag(state: dict[str, Any], form: str) -> str:
    """The entity tag of what an indicator shows, which changes only when that does."""
    text = json.dumps([form, state], sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
