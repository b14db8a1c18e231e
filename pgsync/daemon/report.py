"""Errors of handlers as job rows keep them."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["describe_error", "words_of"]

_MOST_CHARACTERS = 10_000


def describe_error(error: BaseException) -> dict[str, Any]:
    """The error and its traceback, bounded, as text that PostgreSQL can store."""
    words = words_of(error)
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001
        trace = "<its traceback cannot be formatted>"
    kind = type(error).__name__
    return {
        "error": f"{kind}: {words}" if words else kind,
        "traceback": _storable(trace),
    }


def words_of(error: BaseException) -> str:
    """The error's own text, bounded, as PostgreSQL can store it."""
    try:
        return _storable(str(error))
    except Exception:  # noqa: BLE001 - a handler's exception may be broken itself
        return "<its text raises>"


def _storable(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\N{SYMBOL FOR NULL}")
    if len(clean) <= _MOST_CHARACTERS:
        return clean
    half = _MOST_CHARACTERS // 2
    return f"{clean[:half]}\n[... {len(clean) - 2 * half} characters left out ...]\n{clean[-half:]}"
