"""Errors of other people's code as text that PostgreSQL can store."""

from __future__ import annotations

__all__ = ["error_text", "storable", "words_of"]

_MOST_CHARACTERS = 10_000


def error_text(error: BaseException) -> str:
    """The error's class and its own words."""
    words = words_of(error)
    kind = type(error).__name__
    return f"{kind}: {words}" if words else kind


def words_of(error: BaseException) -> str:
    """The error's own words."""
    try:
        return storable(str(error))
    except Exception:  # noqa: BLE001 - somebody's exception may be broken itself
        return "<its text raises>"


def storable(text: str) -> str:
    """The text bounded, without NUL and lone surrogates."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\N{SYMBOL FOR NULL}")
    if len(clean) <= _MOST_CHARACTERS:
        return clean
    half = _MOST_CHARACTERS // 2
    return f"{clean[:half]}\n[... {len(clean) - 2 * half} characters left out ...]\n{clean[-half:]}"
