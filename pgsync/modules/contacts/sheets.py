"""Writing rows of text to a file that a spreadsheet opens, replaced whole or not at all."""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from openpyxl import Workbook

from pgsync.modules.contacts.cells import guard_formula
from pgsync.modules.contacts.errors import ContactFileError

__all__ = ["FORMATS", "Format", "replacing", "write_rows"]

Format = Literal["csv", "xlsx"]
FORMATS: tuple[Format, ...] = ("csv", "xlsx")

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


def write_rows(path: Path, form: Format, rows: Iterable[Sequence[str]]) -> None:
    """Write rows to a file; no cell of it is a formula.

    Raises:
        ContactFileError: if an XLSX sheet cannot hold them.
    """
    guarded = ([guard_formula(cell) for cell in row] for row in rows)
    if form == "csv":
        _write_csv(path, guarded)
    else:
        _write_workbook(path, guarded)


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    # With the mark, spreadsheets know that it is UTF-8.
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_workbook(path: Path, rows: Iterable[Sequence[str]]) -> None:
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("Contacts")
    try:
        for number, row in enumerate(rows, 1):
            if number > _SHEET_ROWS:
                raise ContactFileError(
                    f"an XLSX sheet holds {_SHEET_ROWS:,} rows at most; export to CSV, or filter"
                )
            sheet.append([_NOT_IN_XML.sub("", cell)[:_CELL] for cell in row])
        workbook.save(path)
    finally:
        # The sheet's own temporary file is removed by closing it, saved or not.
        if not sheet.closed:
            sheet.close()
        workbook.close()
