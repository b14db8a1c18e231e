"""Which column of a table holds what, guessed from its header or told by a mapping."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgsync.modules.contacts.errors import ContactFileError
from pgsync.modules.contacts.header_names import NAMES

__all__ = [
    "EXPORT_HEADERS",
    "FIELDS",
    "REJECT_HEADERS",
    "Columns",
    "find_columns",
    "names_phone",
]

FIELDS = (
    "wa_id",
    "phone",
    "name",
    "email",
    "company",
    "notes",
    "tags",
    "status",
    "consent",
    "consent_at",
    "consent_source",
    "consent_evidence",
)
"""What a mapping may name."""

EXPORT_HEADERS = (
    "wa_id",
    "name",
    "email",
    "phone",
    "company",
    "status",
    "tags",
    "notes",
    "created_at",
)
"""The columns of an export, in their order; no import reads the last of them."""

REJECT_HEADERS = ("rejected row", "rejected because")
"""Columns of a file of refused rows that are ours: no import reads them."""

_PATTERNS = {field: [re.compile(name) for name in names] for field, names in NAMES.items()}
_SEPARATORS = re.compile(r"[\W_]+")
# A file of refused rows tells columns of one name apart by it.
_NUMBERED = re.compile(r" \(\d+\)$")
_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of each field, by index from 0, the preferred first.

    ``wa_ids`` are read as international numbers; ``parts`` are those of a name, joined where no
    column of ``names`` has one; ``others`` are the columns that are not understood.
    """

    wa_ids: tuple[int, ...] = ()
    phones: tuple[int, ...] = ()
    names: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    emails: tuple[int, ...] = ()
    companies: tuple[int, ...] = ()
    notes: tuple[int, ...] = ()
    tags: tuple[int, ...] = ()
    statuses: tuple[int, ...] = ()
    consents: tuple[int, ...] = ()
    consent_times: tuple[int, ...] = ()
    consent_sources: tuple[int, ...] = ()
    consent_proofs: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    def by_field(self) -> dict[str, tuple[int, ...]]:
        """The columns of each of :data:`FIELDS` that has some."""
        columns = {
            "wa_id": self.wa_ids,
            "phone": self.phones,
            "name": self.names + self.parts,
            "email": self.emails,
            "company": self.companies,
            "notes": self.notes,
            "tags": self.tags,
            "status": self.statuses,
            "consent": self.consents,
            "consent_at": self.consent_times,
            "consent_source": self.consent_sources,
            "consent_evidence": self.consent_proofs,
        }
        return {field: indexes for field, indexes in columns.items() if indexes}


def find_columns(
    headers: Sequence[str], mapping: Mapping[str, str | None] | None = None
) -> Columns:
    """The columns of a header, whatever its case, spacing and accents.

    ``mapping`` gives, for a field of :data:`FIELDS`, the header to take it from, or None to leave
    it out; the other fields are guessed.

    Raises:
        ContactFileError: if no column holds phone numbers, or the mapping names what is not there.
    """
    words = _words(headers)
    found = {field: _guess(words, patterns) for field, patterns in _PATTERNS.items()}
    known = {index for indexes in found.values() for index in indexes}
    ours = {*REJECT_HEADERS, *(EXPORT_HEADERS if set(EXPORT_HEADERS) <= {*headers} else ())}
    known |= {index for index, header in enumerate(headers) if header in ours}
    for field, header in (mapping or {}).items():
        if field not in FIELDS:
            raise ContactFileError(
                f"the mapping's field {field!r} is unknown; use {', '.join(FIELDS)}"
            )
        found[field] = () if header is None else (_index(headers, header),)
        if field in ("wa_id", "phone"):
            # Told where the number is, no other column is asked for it.
            found["phone" if field == "wa_id" else "wa_id"] = _told(mapping, headers, field)
        if field == "name":
            found["first"] = found["middle"] = found["last"] = ()
    if not found["wa_id"] and not found["phone"]:
        raise ContactFileError(
            f"no column holds phone numbers or WhatsApp IDs; the headers are {_shown(headers)}; "
            'name one "phone", or give a mapping such as {"phone": "your header"}'
        )
    return Columns(
        wa_ids=found["wa_id"],
        phones=found["phone"],
        names=found["name"],
        parts=(*found["first"][:1], *found["middle"][:1], *found["last"][:1]),
        emails=found["email"],
        companies=found["company"],
        notes=found["notes"],
        tags=found["tags"],
        statuses=found["status"],
        consents=found["consent"],
        consent_times=found["consent_at"],
        consent_sources=found["consent_source"],
        consent_proofs=found["consent_evidence"],
        others=_others(len(words), known.union(*found.values())),
    )


def names_phone(headers: Sequence[str]) -> bool:
    """Whether one of these headers is understood as that of phone numbers or WhatsApp IDs."""
    words = _words(headers)
    return any(_guess(words, _PATTERNS[field]) for field in ("wa_id", "phone"))


def _others(width: int, known: set[int]) -> tuple[int, ...]:
    return tuple(index for index in range(width) if index not in known)


def _told(
    mapping: Mapping[str, str | None] | None, headers: Sequence[str], field: str
) -> tuple[int, ...]:
    header = (mapping or {}).get("phone" if field == "wa_id" else "wa_id")
    return () if header is None else (_index(headers, header),)


def _word(header: str) -> str:
    if not header.isascii():
        letters = unicodedata.normalize("NFKD", header)
        header = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return _SEPARATORS.sub("_", header.casefold()).strip("_")


def _words(headers: Sequence[str]) -> list[str]:
    return [_word(_NUMBERED.sub("", header)) for header in headers]


def _guess(words: list[str], patterns: list[re.Pattern[str]]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for pattern in patterns:
        for index, word in enumerate(words):
            if pattern.fullmatch(word):
                found.setdefault(index)
    return tuple(found)


def _index(headers: Sequence[str], header: str) -> int:
    if header in headers:
        return headers.index(header)
    words = [_word(header) for header in headers]
    if _word(header) in words:
        return words.index(_word(header))
    raise ContactFileError(
        f"the mapping's header {header!r} is not in the file; its headers are {_shown(headers)}"
    )


def _shown(headers: Sequence[str]) -> str:
    shown = ", ".join(repr(header[:_SHOWN]) for header in headers[:_SHOWN])
    return f"{shown} and {len(headers) - _SHOWN} more" if len(headers) > _SHOWN else shown
