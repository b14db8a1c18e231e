"""JSON on its way to the database."""

from __future__ import annotations

import json
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["from_json", "to_json"]

# Made once: json.dumps would make an encoder for each value.
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


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
    if "\\u0000" in text:
        raise InvalidArgument(f"{what}: PostgreSQL cannot store the character NUL")
    return text


def from_json(data: bytes | bytearray | memoryview | str) -> Any:
    """What JSON from the server says: always UTF-8, so its encoding need not be guessed."""
    return _decode(data if isinstance(data, str) else str(data, "utf-8"))
