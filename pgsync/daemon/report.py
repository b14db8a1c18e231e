"""Errors of handlers as job rows keep them."""

from __future__ import annotations

import traceback
from typing import Any

from pgsync.database.words import error_text, storable

__all__ = ["describe_error"]


def describe_error(error: BaseException) -> dict[str, Any]:
    """The error, its class and its traceback, bounded, as text that PostgreSQL can store."""
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - a handler's exception may be broken itself
        trace = "<its traceback cannot be formatted>"
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    return {"error": error_text(error), "type": storable(path), "traceback": storable(trace)}
