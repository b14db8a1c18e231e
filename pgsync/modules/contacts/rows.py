"""From a table's rows to contacts: each row is a clean contact, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pgsync.modules.contacts.cells import clean, split_tags, split_values, unguard_formula
from pgsync.modules.contacts.consent import Consent, read_consent
from pgsync.modules.contacts.errors import INVALID_PHONE, MISSING_PHONE, in_row
from pgsync.modules.contacts.headers import Columns, find_columns
from pgsync.modules.contacts.phones import check_region, to_e164
from pgsync.modules.contacts.tables import Table

__all__ = ["STATUSES", "ContactRow", "Reject", "label_columns", "read_contacts"]

STATUSES = ("active", "inactive", "blocked", "opted_out")

_RAW_CELL = 1_000


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
    """A row that was refused; ``raw`` holds its cells by header, cut to 1,000 characters each."""

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
    labels = label_columns(table.headers)
    width = len(labels)
    for row, cells in table.rows:
        if len(cells) < width:
            cells = [*cells, *[""] * (width - len(cells))]
        phone = _phone(cells, columns, region)
        if phone.startswith("+"):
            custom = _custom(cells, columns, labels) if keep_others else None
            yield _contact(row, phone, cells, columns, custom)
        else:
            yield Reject(row, phone, _raw(cells, labels))


def _phone(cells: Sequence[str], columns: Columns, region: str | None) -> str:
    """The first valid number of a row, or the reason why there is none."""
    reason = MISSING_PHONE
    for indexes, international in ((columns.wa_ids, True), (columns.phones, False)):
        for index in indexes:
            if not cells[index] or cells[index].isspace():
                continue
            for value in split_values(unguard_formula(cells[index])):
                if found := to_e164(value.strip(), region, international=international):
                    return found
                reason = INVALID_PHONE
    return reason


def _contact(
    row: int, phone: str, cells: Sequence[str], columns: Columns, custom: dict[str, str] | None
) -> ContactRow:
    status = _first(cells, columns.statuses)
    word = status.casefold().replace(" ", "_") if status else None
    name = _first(cells, columns.names)
    if name is None and columns.parts:
        name = " ".join(part for index in columns.parts if (part := _cell(cells[index]))) or None
    consent = _consent(cells, columns) if columns.consents else None
    if consent is not None and not consent.opted_in:
        word = "opted_out"
    return ContactRow(
        row,
        phone,
        name,
        _first(cells, columns.emails, packed=True),
        _first(cells, columns.companies, packed=True),
        _first(cells, columns.notes),
        split_tags([_cell(cells[index]) for index in columns.tags]),
        word if word in STATUSES else None,
        custom,
        consent,
    )


def _consent(cells: Sequence[str], columns: Columns) -> Consent | None:
    return read_consent(
        _first(cells, columns.consents),
        _first(cells, columns.consent_times),
        _first(cells, columns.consent_sources),
        _first(cells, columns.consent_proofs),
    )


def _custom(cells: Sequence[str], columns: Columns, labels: list[str]) -> dict[str, str] | None:
    values = {labels[index]: _cell(cells[index]) for index in columns.others}
    return {label: value for label, value in values.items() if value} or None


def _first(cells: Sequence[str], indexes: tuple[int, ...], *, packed: bool = False) -> str | None:
    for index in indexes:
        if value := _cell(cells[index]):
            return next(iter(split_values(value)), None) if packed else value
    return None


def _cell(text: str) -> str | None:
    if not text:
        return None
    if "'" in text:
        text = unguard_formula(text)
    # Most cells are plain, and there are millions of them.
    if text.isascii() and text.isprintable():
        return text.strip() or None
    return clean(text)


def label_columns(headers: Sequence[str]) -> list[str]:
    """A name for each column: its header, where that is there and no other column's."""
    labels: dict[str, None] = {}
    for number, header in enumerate(headers, 1):
        label = clean(header) or f"column {number}"
        labels.setdefault(f"{label} ({number})" if label in labels else label)
    return list(labels)


def _raw(cells: Sequence[str], labels: list[str]) -> dict[str, str]:
    names = [*labels, *(f"column {number}" for number in range(len(labels) + 1, len(cells) + 1))]
    return {name: (clean(cell) or "")[:_RAW_CELL] for name, cell in zip(names, cells, strict=True)}
