"""A first pass over a file: it is whole, its columns are understood, and how many rows it has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgsync.modules.contacts.headers import find_columns
from pgsync.modules.contacts.tables import Bounds, open_table

__all__ = ["Survey", "digest_of", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """``rows`` are those that are not blank, without the header."""

    headers: list[str]
    rows: int


def survey(
    path: Path, mapping: Mapping[str, str | None] | None = None, bounds: Bounds | None = None
) -> Survey:
    """Read a file to its end, so that one that breaks off is refused before any row is taken.

    Raises:
        ContactFileError: if it cannot be read, breaks off, or no column holds phone numbers.
    """
    with open_table(path, bounds) as table:
        find_columns(table.headers, mapping)
        rows = sum(1 for _ in table.rows)
    return Survey(table.headers, rows)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
