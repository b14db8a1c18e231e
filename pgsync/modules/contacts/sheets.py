"""Writing rows of text to a file that a spreadsheet opens, replaced whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from openpyxl import Workbook

from pgsync.modules.contacts.cells import guard_formula
from pgsync.modules.contacts.errors import ContactFileError

__all__ = ["FORMATS", "Format", "csv_pieces", "replacing", "write_rows"]

Format = Literal["csv", "xlsx"]
FORMATS: tuple[Format, ...] = ("csv", "xlsx")

# With the mark, spreadsheets know that it is UTF-8.
_MARK = "\ufeff"
_PIECE = 1_000
_SHEET_ROWS = 1_048_576
_CELL = 32_767
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends well.

    Raises:
        ContactFileError: if the folder cannot be written to.
    """
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(number)
    except OSError as error:
        raise ContactFileError(
            f"cannot write to the folder of {path.name!r}: {error.strerror or error}"
        ) from error
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_rows(path: Path, form: Format, rows: Iterable[Sequence[str]]) -> int:
    """Write rows to a file and return how many; no cell of it is a formula.

    Raises:
        ContactFileError: if an XLSX sheet cannot hold them all, or a cell.
    """
    write = _write_csv if form == "csv" else _write_workbook
    return write(path, _guarded(rows))


def csv_pieces(rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """Rows as pieces of a CSV file, for who sends it on while it is made; no cell is a formula."""
    guarded = _guarded(rows)
    mark = _MARK
    while piece := list(islice(guarded, _PIECE)):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(piece)
        yield (mark + text.getvalue()).encode()
        mark = ""


def _guarded(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    return ([guard_formula(cell) for cell in row] for row in rows)


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> int:
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(_MARK)
        writer = csv.writer(file)
        for number, row in enumerate(rows, 1):  # noqa: B007 - read after the loop
            writer.writerow(row)
    return number


def _write_workbook(path: Path, rows: Iterable[Sequence[str]]) -> int:
    number = 0
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("Contacts")
    try:
        for number, row in enumerate(rows, 1):
            if number > _SHEET_ROWS:
                raise ContactFileError(
                    f"an XLSX sheet holds {_SHEET_ROWS:,} rows at most; export to CSV, or filter"
                )
            if max(map(len, row), default=0) > _CELL:
                raise ContactFileError(
                    f"a cell of an XLSX sheet holds {_CELL:,} characters at most, and one of"
                    f" {row[0][:20]} has more; export to CSV"
                )
            sheet.append([_NOT_IN_XML.sub("", cell) for cell in row])
        workbook.save(path)
        return number
    finally:
        # The sheet's own temporary file is removed by closing it, saved or not.
        if not sheet.closed:
            sheet.close()
        workbook.close()
