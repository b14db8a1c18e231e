"""Reading the first sheet of an XLSX workbook that people see, as rows of text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from openpyxl import load_workbook
from openpyxl.xml import constants
from openpyxl.xml.functions import fromstring

from pgsync.modules.contacts.errors import EMPTY_OR_INVALID, ContactFileError

__all__ = ["ZIP_MAGIC", "workbook_rows"]

ZIP_MAGIC = b"PK\x03\x04"

# How Excel writes a control character, such as the end of a line from another program.
_CONTROL = re.compile(r"_x00([01][0-9A-Fa-f])_")

# What openpyxl makes a tree of, some 25 times as large; the sheet itself it reads row by row.
_TREES = frozenset(
    {
        constants.ARC_CONTENT_TYPES,
        constants.ARC_CORE,
        constants.ARC_APP,
        constants.ARC_CUSTOM,
        constants.ARC_STYLE,
        constants.ARC_THEME,
        constants.ARC_WORKBOOK,
    }
)
_TREE_TYPES = frozenset(
    {constants.XLSX, constants.XLSM, constants.XLTX, constants.XLTM, constants.CPROPS_TYPE}
)


@contextmanager
def workbook_rows(path: Path, unpacked: int) -> Iterator[Iterator[list[str]]]:
    """The rows of a workbook's first sheet that is not hidden; its hidden rows too.

    Numbers are without exponent, days without a time, and formulas by their value.

    Raises:
        ContactFileError: if it is no workbook, or larger than ``unpacked`` bytes when unpacked.
    """
    # Given a path, openpyxl would judge it by its name.
    with path.open("rb") as file:
        with _translated():
            with zipfile.ZipFile(file) as archive:
                _check_sizes(archive, unpacked)
            workbook = load_workbook(file, read_only=True, data_only=True)
        with closing(workbook):
            yield _rows(workbook)


def _check_sizes(archive: zipfile.ZipFile, unpacked: int) -> None:
    """Refuse a small file that unpacks to a large one; no more is read of it than it states."""
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    _bound(sum(member.file_size for member in archive.infolist()), unpacked)
    for name, size in sizes.items():
        if name in _TREES or name.endswith(".rels"):
            _bound(size, unpacked // 64)
    # By type too, since openpyxl finds these parts by it, whatever their names.
    for part in fromstring(archive.read(constants.ARC_CONTENT_TYPES)):
        size = sizes.get(part.get("PartName", "").removeprefix("/"), 0)
        if part.get("ContentType") == constants.SHARED_STRINGS:
            _bound(size, unpacked // 8)
        elif part.get("ContentType") in _TREE_TYPES:
            _bound(size, unpacked // 64)


def _bound(size: int, most: int) -> None:
    if size > most:
        raise ContactFileError(
            f"the workbook, or a part of it, is larger than {most:,} bytes when unpacked; "
            "save it as CSV"
        )


def _rows(workbook: Any) -> Iterator[list[str]]:
    with _translated():
        sheets = workbook.worksheets
        sheet = next((one for one in sheets if one.sheet_state == "visible"), sheets[0])
        # The stated dimensions are wrong in many exports, and would cut rows off.
        sheet.reset_dimensions()
        for values in sheet.iter_rows(values_only=True):
            cells = [_text(value) for value in values]
            # Formatted but empty cells reach to the sheet's right edge in some exports.
            while cells and not cells[-1]:
                cells.pop()
            yield cells


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
        case str() if "_x00" in value:
            return _CONTROL.sub(lambda found: chr(int(found[1], 16)), value)
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)
