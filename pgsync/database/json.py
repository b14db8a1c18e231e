"""JSON on its way to the database."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["from_json", "to_json", "to_json_each"]

# Made once: json.dumps would make an encoder for each value.
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

_has_nul = re.compile(r"(?<!\\)(?:\\\\)*\\u0000").search

_BETWEEN = "pgsync:next"
"""Not that values may not have it: then each goes by itself."""


def to_json(value: Any, what: str) -> str:
    """The value as JSON text.

    Raises:
        InvalidArgument: if JSON cannot say it: another type, NaN, infinity, NUL or a lone
            surrogate. The message begins with ``what``.
    """
    try:
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: text with a lone surrogate is not Unicode text") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{what} must be JSON (null, bool, number, text, list, dict): {error}"
        ) from None
    if "\\u0000" in text and _has_nul(text):
        raise InvalidArgument(f"{what}: PostgreSQL cannot store the character NUL")
    return text


def to_json_each(values: Sequence[Any], what: str) -> list[str]:
    """Each value as :func:`to_json` has it, by one call of the encoder for all.

    A call costs several times what a small value does.

    Raises:
        InvalidArgument: if JSON cannot say one of them, as :func:`to_json`.
    """
    joined: list[Any] = [_BETWEEN] * (2 * len(values) - 1)
    joined[::2] = values
    try:
        texts = to_json(joined, what)[1:-1].split(f',"{_BETWEEN}",')
    except InvalidArgument:
        texts = []
    if len(texts) != len(values):  # One is to be refused, or says what is between them.
        return [to_json(value, what) for value in values]
    return texts


def from_json(data: bytes | bytearray | memoryview | str) -> Any:
    """What JSON from the server says: always UTF-8, so its encoding need not be guessed."""
    return _decode(data if isinstance(data, str) else str(data, "utf-8"))
