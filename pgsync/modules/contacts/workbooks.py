"""Reading the first sheet of an XLSX workbook as rows of text."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from openpyxl import load_workbook

from pgsync.modules.contacts.errors import EMPTY_OR_INVALID, ContactFileError

__all__ = ["ZIP_MAGIC", "workbook_rows"]

ZIP_MAGIC = b"PK\x03\x04"


@contextmanager
def workbook_rows(path: Path, unpacked: int) -> Iterator[Iterator[list[str]]]:
    """The rows of a workbook's first sheet; numbers without exponent, formulas by their value.

    Raises:
        ContactFileError: if it is no workbook, or larger than ``unpacked`` bytes when unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        raise ContactFileError(EMPTY_OR_INVALID) from None
    if size > unpacked:
        raise ContactFileError(
            f"the workbook is larger than {unpacked:,} bytes when unpacked; save it as CSV"
        )
    # Given a path, openpyxl would judge it by its name.
    with path.open("rb") as file:
        with _translated():
            workbook = load_workbook(file, read_only=True, data_only=True)
        with closing(workbook):
            yield _rows(workbook)


def _rows(workbook: Any) -> Iterator[list[str]]:
    with _translated():
        sheet = workbook.worksheets[0]
        # The stated dimensions are wrong in many exports, and would cut rows off.
        sheet.reset_dimensions()
        for values in sheet.iter_rows(values_only=True):
            yield [_text(value) for value in values]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ContactFileError, GeneratorExit):
        raise
    except Exception as error:
        raise ContactFileError(EMPTY_OR_INVALID) from error


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)
