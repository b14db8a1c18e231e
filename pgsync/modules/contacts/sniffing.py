"""Which encoding and which delimiter a CSV file was written with, judged by its content."""

from __future__ import annotations

import codecs
import csv
import re
from pathlib import Path
from typing import BinaryIO

from pgsync.modules.contacts.headers import names_phone

__all__ = ["DELIMITERS", "sniff_delimiter", "sniff_encoding", "stated_delimiter"]

DELIMITERS = ",;\t|"

# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_START = 4_096
_HEADER = 32
_CHUNK = 1 << 20
_ZEROS = 4
_BROKEN = "\ufffd"
_STATED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def sniff_encoding(path: Path) -> str:
    """The codec of a file: by its byte order mark, else by what most of its letters are.

    The whole file is looked at, in constant memory: one late accent decides as well as an early.
    A few broken bytes in UTF-8 do not turn every other accent into Windows-1252.
    """
    with path.open("rb") as file:
        start = file.read(_START)
        for mark, codec in _MARKS:
            if start.startswith(mark):
                return codec
        if unmarked := _unmarked_utf16(start):
            return unmarked
        file.seek(0)
        return _weigh(file)


def _unmarked_utf16(start: bytes) -> str | None:
    """UTF-16 without its mark shows in zeros: delimiters and digits have one in every two bytes.

    Where the cells are of another script, the header mostly is not.
    """
    return _by_zeros(start) or _by_zeros(start[:_HEADER])


def _by_zeros(start: bytes) -> str | None:
    upper, lower = start[::2].count(0), start[1::2].count(0)
    many, few = max(upper, lower), min(upper, lower)
    if many < _ZEROS or many * 8 < len(start) or few * 4 > many:
        return None
    return "utf-16-be" if upper > lower else "utf-16-le"


def _weigh(file: BinaryIO) -> str:
    """UTF-8 where more of the letters beyond ASCII are whole in it than broken."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = broken = 0
    while chunk := file.read(_CHUNK):
        text = decoder.decode(chunk)
        if not text.isascii():
            bad = text.count(_BROKEN) - chunk.count(_BROKEN.encode())
            broken += bad
            whole += len(text) - len(text.encode("ascii", "ignore")) - bad
    broken += len(decoder.decode(b"", final=True))
    return "utf-8" if broken == 0 or whole > broken else "cp1252"


def stated_delimiter(line: str) -> str | None:
    """The delimiter that Excel's first line ``sep=;`` states; None if the line is another."""
    match = _STATED.fullmatch(line)
    return match[1] if match and match[1] in DELIMITERS else None


def sniff_delimiter(lines: list[str]) -> str:
    """The delimiter by which a sample's header names a phone and most rows are as wide as it."""
    return max(DELIMITERS, key=lambda delimiter: _agreement(lines, delimiter))


def _agreement(lines: list[str], delimiter: str) -> tuple[float, int]:
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    except csv.Error:
        return 0, 0
    header = rows.pop(0) if rows else []
    width = len(header)
    if width < 2:
        return 0, 0
    agreeing = sum(len(row) >= width and not any(row[width:]) for row in rows)
    # A header that is understood weighs almost as much as if all rows agreed, so that a comma in
    # a header cell and in most names does not win.
    return agreeing / max(1, len(rows)) + 0.75 * names_phone(header), width
