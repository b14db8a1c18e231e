"""A file of contacts as dirty as real ones, and the truth about it, known from how it was built."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pgsync.modules.contacts.errors import INVALID_PHONE, MISSING_PHONE, in_row
from pgsync.modules.contacts.rows import ContactRow

__all__ = ["REGION", "SampleTruth", "write_sample"]

REGION = "US"
"""The default region that the sample's numbers without a country are of."""

_HEADER = ("Full Name", "Phone Number", "E-mail", "Organization", "Labels", "Note")
# Prefix in E.164, free digits, and how the country writes it. The numbering authorities of the
# first five countries set these ranges aside for fiction; the others, whose countries have none,
# are next to the library's own example numbers.
_RANGES = (
    *(
        ("+1" + area + "55501", 2, "us")
        for area in ("201", "212", "305", "415", "617", "702", "808")
    ),
    *((f"+44{area}4960", 3, "plain") for area in ("113", "121", "131", "151", "161")),
    ("+442079460", 3, "plain"),
    *(("+49" + area, 3, "plain") for area in ("3023125", "6990009", "4066969", "2214710")),
    ("+4917139200", 2, "plain"),
    *((f"+61{area}5550", 4, "plain") for area in "2378"),
    ("+468465004", 2, "plain"),
    ("+55119612", 5, "plain"),
    ("+9181234", 5, "plain"),
    ("+23480212", 5, "plain"),
    ("+819012", 6, "plain"),
    ("+48512", 6, "plain"),
    ("+254712", 6, "plain"),
    ("+3933", 8, "plain"),
)
_FIRST = ("Ana", "Zoë", "José", "Łukasz", "Björn", "O'Neill", "Ιωάννης", "李雷", "さくら", "Ольга")
_LAST = ("Müller", "García", "Nguyễn", "Smith-Jones", "Šimić", "عمر", "van der Berg", "王", "Ünal")
_COMPANIES = ("Acme, Inc.", 'The "Quoted" Co.', "Café & Söhne; Partner", "Tab\tLtd", "Plain Works")
_NOTES = (
    "Met at the fair,\nwrite in spring",
    'Says "call me"',
    "Prefers; semicolons",
    "ça va",
    "👋",
)
_TAGS = ("vip", "lead", "2024 fair", "newsletter")
_MISSING = ("", "   ", "\t")
_INVALID = ("12", "not a number", "4.91512E+12", "+999123456789", "(000) 000-0000", "=1+1", "++--")


@dataclass(frozen=True, slots=True)
class SampleTruth:
    """What an import into an empty workspace must make of a sample, in the region REGION.

    ``rows`` is the number of rows without the header, ``contacts`` the distinct ones by phone, as
    an import that fills blanks merges them (``row`` is that of the first), ``duplicates`` the rows
    whose number stood in an earlier row, ``rejects`` pairs of row and reason.
    """

    rows: int
    contacts: dict[str, ContactRow]
    duplicates: int
    rejects: list[tuple[int, str]]

    @property
    def errors(self) -> list[str]:
        """The messages for the rejects."""
        return [in_row(row, reason) for row, reason in self.rejects]


@dataclass(slots=True)
class _Builder:
    random: random.Random
    numbers: Iterator[tuple[str, str]]
    contacts: dict[str, ContactRow] = field(default_factory=dict)
    written: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    rejects: list[tuple[int, str]] = field(default_factory=list)

    def line(self, row: int) -> list[str]:
        """The next row, and its truth into the books."""
        roll = self.random.random()
        if roll < 0.03:
            return self._bad(row)
        if roll < 0.11 and self.written:
            phone, style = self.random.choice(self.written)
        else:
            phone, style = next(self.numbers)
            self.written.append((phone, style))
        return self._good(row, phone, style)

    def _bad(self, row: int) -> list[str]:
        missing = self.random.random() < 0.5
        cell = self.random.choice(_MISSING if missing else _INVALID)
        self.rejects.append((row, MISSING_PHONE if missing else INVALID_PHONE))
        if missing and self.random.random() < 0.3:
            return ["Nobody"]
        return ["Nobody", cell, "nobody@example.org", "", "", ""]

    def _good(self, row: int, phone: str, style: str) -> list[str]:
        choose, maybe = self.random.choice, self.random.random
        name = f"{choose(_FIRST)} {choose(_LAST)}" if maybe() < 0.9 else None
        email = f"person{row}@example.org" if maybe() < 0.6 else None
        company = choose(_COMPANIES) if maybe() < 0.3 else None
        notes = choose(_NOTES) if maybe() < 0.2 else None
        tags = tuple(self.random.sample(_TAGS, self.random.randint(0, 2)))
        self._book(ContactRow(row, phone, name, email, company, notes, tags))
        cells = (name, _spelling(self.random, phone, style), email, company)
        line = [cell or choose(("", " ")) for cell in cells]
        line += [" ::: ".join(tags), notes or ""]
        # Some programs leave out the blank cells at the end of a row.
        while maybe() < 0.5 and not line[-1]:
            line.pop()
        return line

    def _book(self, new: ContactRow) -> None:
        old = self.contacts.get(new.phone)
        if old is None:
            self.contacts[new.phone] = new
            return
        self.duplicates += 1
        self.contacts[new.phone] = old._replace(
            name=old.name or new.name,
            email=old.email or new.email,
            company=old.company or new.company,
            notes=old.notes or new.notes,
            tags=tuple(dict.fromkeys(old.tags + new.tags)),
        )


def write_sample(
    path: str | Path, rows: int = 5_000, seed: int = 1, *, delimiter: str = ","
) -> SampleTruth:
    """Write a dirty CSV file of ``rows`` rows and return the truth about it.

    The same seed writes the same file. Nothing of the reader is used to find the truth.
    """
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    builder = _Builder(chance, _numbers(chance))
    with Path(path).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(_HEADER)
        for row in range(2, rows + 2):
            writer.writerow(builder.line(row))
    return SampleTruth(rows, builder.contacts, builder.duplicates, builder.rejects)


def _numbers(chance: random.Random) -> Iterator[tuple[str, str]]:
    """Distinct valid numbers of all ranges in turn; when one is used up, the larger ones go on."""
    ranges = [
        (prefix, digits, style, chance.randrange(10**digits)) for prefix, digits, style in _RANGES
    ]
    for turn in count():
        for prefix, digits, style, start in ranges:
            if turn < 10**digits:
                yield f"{prefix}{(start + turn) % 10**digits:0{digits}}", style


def _spelling(chance: random.Random, phone: str, style: str) -> str:
    digits = phone[1:]
    spellings = [phone, f"00{digits}", digits, f"+{digits[:3]} {digits[3:7]}-{digits[7:]}"]
    spellings += [f" {phone}\u00a0", f"\u202a{phone}\u202c", _arabic(digits), f"tel:{phone}"]
    if style == "us":
        area, exchange, line = digits[1:4], digits[4:7], digits[7:]
        spellings += [f"({area}) {exchange}-{line}", f"{area}.{exchange}.{line}", digits[1:]]
    return chance.choice(spellings)


def _arabic(digits: str) -> str:
    return "+" + "".join(chr(0x0660 + int(digit)) for digit in digits)
