"""From a table's rows to contacts: each row is a clean contact, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias

from pgsync.modules.contacts.cells import (
    clean,
    read_cells,
    split_tags,
    split_values,
    unguard_formula,
)
from pgsync.modules.contacts.consent import Consent, read_consent
from pgsync.modules.contacts.errors import INVALID_PHONE, MISSING_PHONE, in_row
from pgsync.modules.contacts.headers import Columns, find_columns
from pgsync.modules.contacts.numbering import read_international
from pgsync.modules.contacts.phones import check_region, to_e164
from pgsync.modules.contacts.tables import Table

__all__ = ["STATUSES", "ContactRow", "Reject", "label_columns", "read_contacts"]

STATUSES = ("active", "inactive", "blocked", "opted_out")

# Small, so that what is made for one is gone before Python looks through it for cycles.
_BLOCK = 250

_ByColumn: TypeAlias = Sequence[tuple[str, ...]]
_Texts: TypeAlias = list[str | None]


class ContactRow(NamedTuple):
    """A row that is a contact; ``row`` is its number in the file, ``phone`` is in E.164.

    A blank cell is None. ``email`` is kept as it is written, valid or not: it is never sent to, and
    a contact is not worth losing over it. ``custom`` has the columns that were not understood, by
    header, where they were asked for. A row that denies consent has the status ``opted_out``.
    """

    row: int
    phone: str
    name: str | None = None
    email: str | None = None
    company: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] = ()
    status: str | None = None
    custom: dict[str, str] | None = None
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was refused; ``raw`` holds its cells by header."""

    row: int
    reason: str
    raw: dict[str, str]

    @property
    def message(self) -> str:
        """The reason with the row's number: ``Row 7: Missing phone number or WhatsApp ID``."""
        return in_row(self.row, self.reason)


def read_contacts(
    table: Table,
    region: str | None = None,
    mapping: Mapping[str, str | None] | None = None,
    *,
    keep_others: bool = False,
) -> Iterator[ContactRow | Reject]:
    """The contacts of a table, one for each row that is not blank; one bad row spoils no other.

    ``region`` is the country of numbers written without one; see :func:`find_columns` for
    ``mapping``. With ``keep_others`` the columns that are not understood become ``custom``.

    Raises:
        ContactFileError: if no column holds phone numbers, or the file breaks off.
        InvalidArgument: if there is no such region.
    """
    region = check_region(region)
    columns = find_columns(table.headers, mapping)
    reader = _Reader(columns, label_columns(table.headers), region, keep_others)
    while block := list(islice(table.rows, _BLOCK)):
        yield from reader.read(block)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a block of rows at a time, column by column: what is done for a column costs little."""

    columns: Columns
    labels: list[str]
    region: str | None
    keep_others: bool

    def read(self, block: Sequence[tuple[int, list[str]]]) -> list[ContactRow | Reject]:
        width = len(self.labels)
        rows = [
            cells if len(cells) >= width else [*cells, *[""] * (width - len(cells))]
            for _, cells in block
        ]
        by_column = list(zip(*rows, strict=False))
        phones = self._phones(rows)
        consents = self._consents(by_column)
        fields = (
            [row for row, _ in block],
            phones,
            self._names(by_column),
            _unpacked(_first(by_column, self.columns.emails)),
            _unpacked(_first(by_column, self.columns.companies)),
            _first(by_column, self.columns.notes),
            self._tags(by_column),
            self._statuses(by_column, consents),
            self._customs(by_column),
            consents,
        )
        found: list[ContactRow | Reject] = [*map(ContactRow._make, zip(*fields, strict=True))]
        for index, phone in enumerate(phones):
            if not phone.startswith("+"):
                found[index] = Reject(block[index][0], phone, _raw(rows[index], self.labels))
        return found

    def _phones(self, rows: Sequence[list[str]]) -> list[str]:
        first = (self.columns.wa_ids or self.columns.phones)[0]
        return [read_international(cells[first]) or self._phone(cells) for cells in rows]

    def _phone(self, cells: list[str]) -> str:
        """The first valid number of a row, or the reason why there is none."""
        reason = MISSING_PHONE
        for indexes, international in ((self.columns.wa_ids, True), (self.columns.phones, False)):
            for index in indexes:
                if not cells[index] or cells[index].isspace():
                    continue
                for value in split_values(unguard_formula(cells[index])):
                    if found := to_e164(value.strip(), self.region, international=international):
                        return found
                    reason = INVALID_PHONE
        return reason

    def _names(self, by_column: _ByColumn) -> _Texts:
        names = _first(by_column, self.columns.names)
        parts = [read_cells(by_column[index]) for index in self.columns.parts]
        if not parts:
            return names
        return [
            name or " ".join(filter(None, words)) or None
            for name, *words in zip(names, *parts, strict=True)
        ]

    def _tags(self, by_column: _ByColumn) -> list[tuple[str, ...]]:
        if not self.columns.tags:
            return [()] * len(by_column[0])
        cells = [*zip(*(read_cells(by_column[index]) for index in self.columns.tags), strict=True)]
        # Few differ.
        tags = {texts: split_tags(texts) for texts in set(cells)}
        return [tags[texts] for texts in cells]

    def _statuses(self, by_column: _ByColumn, consents: Sequence[Consent | None]) -> _Texts:
        cells = _first(by_column, self.columns.statuses)
        words = {cell: _status(cell) for cell in set(cells)}
        return [
            words[cell] if consent is None or consent.opted_in else "opted_out"
            for cell, consent in zip(cells, consents, strict=True)
        ]

    def _consents(self, by_column: _ByColumn) -> list[Consent | None]:
        if not self.columns.consents:
            return [None] * len(by_column[0])
        told = (
            self.columns.consents,
            self.columns.consent_times,
            self.columns.consent_sources,
            self.columns.consent_proofs,
        )
        return [
            read_consent(*said)
            for said in zip(*(_first(by_column, indexes) for indexes in told), strict=True)
        ]

    def _customs(self, by_column: _ByColumn) -> list[dict[str, str] | None]:
        if not self.keep_others or not self.columns.others:
            return [None] * len(by_column[0])
        labels = [self.labels[index] for index in self.columns.others]
        return [
            {label: value for label, value in zip(labels, values, strict=True) if value} or None
            for values in zip(
                *(read_cells(by_column[index]) for index in self.columns.others), strict=True
            )
        ]


def _first(by_column: _ByColumn, indexes: tuple[int, ...]) -> _Texts:
    """Of each row the first of these cells that is not blank."""
    if not indexes:
        return [None] * len(by_column[0])
    found = read_cells(by_column[indexes[0]])
    for index in indexes[1:]:
        others = read_cells(by_column[index])
        found = [one or other for one, other in zip(found, others, strict=True)]
    return found


def _status(cell: str | None) -> str | None:
    word = cell.casefold().replace(" ", "_") if cell else None
    return word if word in STATUSES else None


def _unpacked(texts: _Texts) -> _Texts:
    return [text and next(iter(split_values(text)), None) for text in texts]


def label_columns(headers: Sequence[str]) -> list[str]:
    """A name for each column: its header, where that is there and no other column's."""
    return _unlike(
        clean(unguard_formula(header)) or f"column {number}"
        for number, header in enumerate(headers, 1)
    )


def _unlike(names: Iterable[str]) -> list[str]:
    """The names, with a number behind those that stood before."""
    labels: dict[str, None] = {}
    for number, name in enumerate(names, 1):
        while name in labels:
            name = f"{name} ({number})"
        labels[name] = None
    return list(labels)


def _raw(cells: Sequence[str], labels: list[str]) -> dict[str, str]:
    beyond = (f"column {number}" for number in range(len(labels) + 1, len(cells) + 1))
    names = _unlike((*labels, *beyond))
    return {name: cell or "" for name, cell in zip(names, read_cells(cells), strict=True)}
