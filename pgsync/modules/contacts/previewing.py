"""A look at a file before it is imported: what is understood of it, and its first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pgsync.modules.contacts.errors import ContactFileError
from pgsync.modules.contacts.headers import find_columns
from pgsync.modules.contacts.rows import ContactRow, Reject, read_contacts
from pgsync.modules.contacts.tables import Table, open_table

__all__ = ["Preview", "preview"]


@dataclass(frozen=True, slots=True)
class Preview:
    """What an import would make of a file's first rows.

    ``fields`` has, for each field that was found, the headers that it is read from, the preferred
    first; ``others`` the headers that are not understood. ``cells`` are the first rows as they
    stand in the file, with their numbers, ``rows`` what they become. Where the columns cannot be
    found, ``problem`` says why and ``fields``, ``others`` and ``rows`` are empty: the headers are
    there to make a mapping from.
    """

    format: str
    headers: list[str]
    cells: list[tuple[int, list[str]]]
    fields: dict[str, list[str]]
    others: list[str]
    rows: list[ContactRow | Reject]
    problem: str | None = None


def preview(
    path: str | Path,
    n: int = 10,
    *,
    region: str | None = None,
    mapping: Mapping[str, str | None] | None = None,
) -> Preview:
    """Read the first ``n`` rows that are not blank; ``region`` and ``mapping`` as in an import.

    Raises:
        ContactFileError: if the file is missing, too large, empty, or no table.
        InvalidArgument: if there is no such region.
    """
    with open_table(path) as table:
        cells = list(islice(table.rows, n))
    headers = table.headers
    try:
        columns = find_columns(headers, mapping)
    except ContactFileError as error:
        return Preview(table.format, headers, cells, {}, [], [], str(error))
    return Preview(
        table.format,
        headers,
        cells,
        fields={
            field: [headers[index] for index in indexes]
            for field, indexes in columns.by_field().items()
        },
        others=[headers[index] for index in columns.others],
        rows=_read(table, cells, region, mapping),
    )


def _read(
    table: Table,
    cells: list[tuple[int, list[str]]],
    region: str | None,
    mapping: Mapping[str, str | None] | None,
) -> list[ContactRow | Reject]:
    return list(read_contacts(replace(table, rows=iter(cells)), region, mapping, keep_others=True))
