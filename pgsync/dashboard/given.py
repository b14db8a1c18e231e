"""What query strings and forms give, read and refused in words: ids, numbers, JSON, moments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.exact import read_exact, write_exact

__all__ = [
    "count",
    "id_in_query",
    "is_id",
    "json_object",
    "moment",
    "positive_number",
    "text",
    "whole_number",
]

_MOST_DIGITS = 18
_MOST = 2**31 - 1


def is_id(given: str) -> bool:
    """Whether it is a number that an id can be."""
    return given.isdecimal() and len(given) <= _MOST_DIGITS


def id_in_query(request: Request, name: str) -> int | None:
    """An id of the query string, or None where it is not given.

    Raises:
        HTTPException: if it is none.
    """
    given = request.query_params.get(name, "")
    if not given:
        return None
    if not is_id(given):
        raise HTTPException(400, f"{name} must be a number")
    return int(given)


def text(form: FormData, name: str) -> str:
    """A field's text, without spaces around it; empty where it is not given."""
    given = form.get(name)
    return given.strip() if isinstance(given, str) else ""


def whole_number(form: FormData, name: str) -> int:
    """A field's whole number of at most nine digits.

    Raises:
        HTTPException: if it is none.
    """
    given = text(form, name)
    if not (given.removeprefix("-").isdecimal() and given.isascii() and len(given) <= 9):
        raise HTTPException(400, f"{name.replace('_', ' ')} must be a whole number")
    return int(given)


def positive_number(form: FormData, name: str) -> float:
    """A field's number.

    Raises:
        HTTPException: if it is none above zero.
    """
    try:
        value = float(text(form, name))
    except ValueError:
        value = 0
    if not 0 < value <= _MOST:
        raise HTTPException(400, f"{name} must be a number above zero, {_MOST} at most")
    return value


def count(form: FormData, name: str) -> int:
    """A field's whole number.

    Raises:
        HTTPException: if it is none above zero.
    """
    value = positive_number(form, name)
    if not value.is_integer():
        raise HTTPException(400, f"{name} must be a whole number")
    return int(value)


def json_object(given: str) -> dict[str, Any]:
    """Arguments as they are typed.

    Raises:
        HTTPException: if they are no JSON object.
    """
    try:
        args = read_exact(given)
        write_exact(args).encode()  # A lone surrogate is no text.
    except ValueError as error:
        raise HTTPException(400, f"the arguments are not JSON: {error}") from None
    if not isinstance(args, dict):
        raise HTTPException(400, 'the arguments must be a JSON object, such as {"to": "ada"}')
    return args


def moment(given: str) -> datetime | None:
    """A moment in UTC; None where none is given.

    Raises:
        HTTPException: if it is none.
    """
    if not given:
        return None
    try:
        return datetime.fromisoformat(given).replace(tzinfo=UTC)
    except ValueError:
        raise HTTPException(400, "the due time must be a moment in UTC, or empty") from None
