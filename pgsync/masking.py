"""What nobody needs to see: values whose key says that they are secret."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["HIDDEN", "is_secret", "masked_text", "masked_value", "unmasked"]

HIDDEN = "•••"

_WORDS = (
    r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|authorization|cookie|credential"
    r"|private[_-]?key|signature|pgsync:sealed"
)
_SECRET = re.compile(_WORDS, re.IGNORECASE)
# In free text (an error, a traceback) what follows such a word, and the password of a URL. Whatever
# the text, no place is read again from many others: it may be a megabyte of somebody's arguments.
_ASSIGNED = re.compile(
    rf"((?:{_WORDS})[\w-]{{0,64}}[\"']?\s*[=:]\s*(?:bearer\s+|basic\s+)?)"
    r"(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"\b(\w+://[^\s:/@]*:)[^\s@]{1,256}(?=@)")


def is_secret(key: str) -> bool:
    """Whether the value of a key of this name is hidden."""
    return _SECRET.search(key) is not None


def masked_value(value: Any) -> Any:
    """A JSON value with what is secret in it, at any depth, hidden."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if is_secret(key) and each is not None else masked_value(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [masked_value(each) for each in value]
    # Not a number that is kept as its text.
    return masked_text(value) if type(value) is str else value


def unmasked(value: Any, original: Any) -> Any:
    """A value that was edited as :func:`masked_value` shows it, with what it hides put back."""
    if value == masked_value(original):
        return original
    if isinstance(value, dict) and isinstance(original, dict):
        return {
            key: original[key]
            if key in original and is_secret(key) and each == HIDDEN
            else unmasked(each, original.get(key))
            for key, each in value.items()
        }
    if isinstance(value, list) and isinstance(original, list):
        return [
            unmasked(each, original[n] if n < len(original) else None)
            for n, each in enumerate(value)
        ]
    return value


def masked_text(text: str) -> str:
    """Free text without the passwords of URLs, and without what is assigned to a secret's name."""
    return _ASSIGNED.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1{HIDDEN}", text))
