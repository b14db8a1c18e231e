"""JSON in and out without losing a digit: PostgreSQL's numbers have any length, floats not."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

from psycopg.abc import Buffer
from psycopg.adapt import Loader

__all__ = ["ExactLoader", "Number", "read_exact", "write_exact"]

_LONGEST_INT = 1_000
_DEEPEST = 60
TOO_DEEP = "(nested too deeply to be shown)"


class Number(str):
    """A number as it is written, where Python's own would be another, or takes long to read."""

    __slots__ = ()


def read_exact(text: str) -> Any:
    """What JSON says.

    Raises:
        ValueError: if it is none, or says NaN or infinity.
    """
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_fraction, parse_constant=_not_json
        )
    except RecursionError:
        return TOO_DEEP
    return value if _is_shallow(value) else TOO_DEEP


def write_exact(value: Any, indent: int = 0) -> str:
    """The value as JSON text, over several lines with an ``indent``."""
    return _written(value, indent, "\n" if indent else "")


class ExactLoader(Loader):
    """Reads a ``jsonb`` exactly; has no number that it cannot read."""

    def load(self, data: Buffer) -> Any:
        return read_exact(str(data, "utf-8"))


def _integer(text: str) -> int | Number:
    return int(text) if len(text) <= _LONGEST_INT else Number(text)


def _fraction(text: str) -> float | Number:
    value = float(text)
    with suppress(ArithmeticError):
        if Decimal(repr(value)) == Decimal(text):
            return value
    return Number(text)


def _not_json(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def _written(value: Any, indent: int, line: str) -> str:
    if isinstance(value, Number):
        return str(value)
    if not isinstance(value, (dict, list)) or not value:
        return json.dumps(value, ensure_ascii=False)
    inside = line + " " * indent if indent else ""
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {_written(each, indent, inside)}"
            for key, each in value.items()
        ]
        first, last = "{", "}"
    else:
        parts = [_written(each, indent, inside) for each in value]
        first, last = "[", "]"
    return first + inside + (f",{inside}" if indent else ", ").join(parts) + line + last
