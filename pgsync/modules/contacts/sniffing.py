"""Which encoding and which delimiter a CSV file was written with, judged by its content."""

from __future__ import annotations

import codecs
import csv
import re
from pathlib import Path

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
_CHUNK = 1 << 20
_STATED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def sniff_encoding(path: Path) -> str:
    """The codec of a file: by its byte order mark, else UTF-8 if all of it is, else Windows-1252.

    The whole file is looked at, in constant memory: one late accent decides as well as an early.
    """
    with path.open("rb") as file:
        start = file.read(4)
        for mark, codec in _MARKS:
            if start.startswith(mark):
                return codec
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def stated_delimiter(line: str) -> str | None:
    """The delimiter that Excel's first line ``sep=;`` states; None if the line is another."""
    match = _STATED.fullmatch(line)
    return match[1] if match and match[1] in DELIMITERS else None


def sniff_delimiter(lines: list[str]) -> str:
    """The delimiter by which most rows of a sample have as many cells as its header."""
    return max(DELIMITERS, key=lambda delimiter: _agreement(lines, delimiter))


def _agreement(lines: list[str], delimiter: str) -> tuple[int, int]:
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    except csv.Error:
        return 0, 0
    width = len(rows[0]) if rows else 0
    if width < 2:
        return 0, 0
    return sum(len(row) == width for row in rows), width
