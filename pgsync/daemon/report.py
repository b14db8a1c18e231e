"""Errors of handlers as job rows keep them."""

from __future__ import annotations

import traceback
from typing import Any

from pgsync.database.words import error_text, storable
from pgsync.masking import masked_text

__all__ = ["describe_error"]


def describe_error(error: BaseException) -> dict[str, Any]:
    """The error, its class and its traceback, bounded, as text that PostgreSQL can store.

    Without passwords of URLs, and what is said to be a password, a token or the like.
    """
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - a handler's exception may be broken itself
        trace = "<its traceback cannot be formatted>"
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    return {
        "error": masked_text(error_text(error)),
        "type": storable(path),
        "traceback": masked_text(storable(trace)),
    }
