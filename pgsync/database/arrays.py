"""Arrays in PostgreSQL's binary form, of values in theirs."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from psycopg import postgres

__all__ = ["array_of", "values_of"]

# Dimensions, whether one is null, the type of all; length and first index of the only dimension.
_HEAD = Struct("!iiiii")
_LENGTH = Struct("!i")


def array_of(of: str, values: Sequence[bytes]) -> bytes:
    """An array of values of the type ``of``."""
    parts = [_HEAD.pack(1, 0, postgres.types[of].oid, len(values), 1)]
    for value in values:
        parts += _LENGTH.pack(len(value)), value
    return b"".join(parts)


def values_of(array: bytes) -> list[bytes]:
    """The values of an array of one dimension that has no nulls."""
    values = []
    begin = _HEAD.size
    while begin < len(array):
        begin += _LENGTH.size
        end = begin + _LENGTH.unpack_from(array, begin - _LENGTH.size)[0]
        values.append(array[begin:end])
        begin = end
    return values
