"""Reading a table of text cells, row by row, from a CSV or XLSX file with real-world dirt."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pgsync.modules.contacts.errors import EMPTY_OR_INVALID, ContactFileError, in_row
from pgsync.modules.contacts.sniffing import sniff_delimiter, sniff_encoding, stated_delimiter
from pgsync.modules.contacts.workbooks import ZIP_MAGIC, workbook_rows

__all__ = ["Bounds", "Table", "is_workbook", "open_table"]

_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
_SAMPLE_LINES = 200
_END = "\0end of file\0"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a file may be, in bytes; a line's length is in characters.

    ``unpacked`` is for XLSX, which is compressed: an eighth of it may be shared strings, which are
    held in memory, and a 64th any one of the parts that describe the workbook.
    """

    size: int = 1 << 30
    unpacked: int = 512 << 20
    rows: int = 5_000_000
    columns: int = 1_000
    line: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """An open table: ``rows`` yields each row that is not blank, once, with its number.

    Numbers are those that a spreadsheet shows: blank rows count, and a cell of many lines is one
    row. ``format`` says how the file was read, for people.
    """

    headers: list[str]
    rows: Iterator[tuple[int, list[str]]]
    format: str


@contextmanager
def open_table(path: str | Path, bounds: Bounds | None = None) -> Iterator[Table]:
    """Open a file as a table, in constant memory for CSV.

    What kind of file it is, its encoding and its delimiter are judged by its content.

    Raises:
        ContactFileError: if it is missing, too large, empty, or no table; also while rows are read.
    """
    path, bounds = Path(path), bounds or Bounds()
    with ExitStack() as stack:
        try:
            table = stack.enter_context(_open(path, bounds))
        except OSError as error:
            raise ContactFileError(
                f"the file {path.name!r} cannot be read: {error.strerror or error}; check its path"
            ) from error
        yield table


def is_workbook(path: Path) -> bool:
    """Whether a file is XLSX by its first bytes; also False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError:
        return False


def _open(path: Path, bounds: Bounds) -> AbstractContextManager[Table]:
    if path.stat().st_size > bounds.size:
        raise ContactFileError(
            f"the file is larger than {bounds.size:,} bytes; split it and import the parts"
        )
    with path.open("rb") as file:
        start = file.read(len(_OLE_MAGIC))
    if start == _OLE_MAGIC:
        raise ContactFileError(
            f"{EMPTY_OR_INVALID}: it is an old .xls workbook, or one with a password; "
            "save it as .xlsx without password, or as CSV"
        )
    return _open_workbook(path, bounds) if is_workbook(path) else _open_csv(path, bounds)


@contextmanager
def _open_workbook(path: Path, bounds: Bounds) -> Iterator[Table]:
    with workbook_rows(path, bounds.unpacked) as cells:
        yield _table(_numbered(cells, bounds), "XLSX")


@contextmanager
def _open_csv(path: Path, bounds: Bounds) -> Iterator[Table]:
    encoding = sniff_encoding(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        delimiter = _find_delimiter(file, bounds)
        rows = _numbered(_csv_rows(file, delimiter, bounds), bounds)
        yield _table(rows, f"CSV in {encoding}, delimiter {delimiter!r}")


def _table(rows: Iterator[tuple[int, list[str]]], form: str) -> Table:
    first = next(rows, None)
    if first is None:
        raise ContactFileError(EMPTY_OR_INVALID)
    return Table([cell.strip() for cell in first[1]], rows, form)


def _find_delimiter(file: TextIO, bounds: Bounds) -> str:
    """Leaves the file at its first row, after a line ``sep=`` where there is one."""
    first = file.readline(bounds.line)
    stated = stated_delimiter(first)
    if stated is not None:
        return stated
    lines = [first, *(file.readline(bounds.line) for _ in range(_SAMPLE_LINES))]
    file.seek(0)
    return sniff_delimiter(lines)


def _csv_rows(file: TextIO, delimiter: str, bounds: Bounds) -> Iterator[list[str]]:
    lines: list[str] = []
    reader = csv.reader(_lines(file, bounds, lines), delimiter=delimiter)
    row, before = 0, None
    try:
        for row, cells in enumerate(reader, 1):
            if len(lines) > 1 and _swallows(cells, lines, delimiter):
                raise ContactFileError(
                    in_row(
                        row,
                        "a quote is opened and closed by that of another cell, lines below;"
                        " close it, so that no row is lost",
                    )
                )
            lines.clear()
            # One row late: the end's own mark is no row.
            if before is not None:
                yield before
            before = cells
    except csv.Error:
        limit = csv.field_size_limit()
        raise ContactFileError(
            in_row(row + 1, f"a cell is longer than {limit:,} characters; is a quote left open?")
        ) from None
    if before != [_END]:
        raise ContactFileError(
            in_row(row, "a quote is opened and never closed; close it, so that no row is lost")
        )


def _swallows(cells: list[str], lines: list[str], delimiter: str) -> bool:
    """Whether a quote left open made one cell of all that is there up to the next quote.

    What is behind that quote is then no cell's end, and the quote that was to close it a letter.
    """
    if not any('"' in cell and ("\n" in cell or "\r" in cell) for cell in cells):
        return False
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return True
    return False


def _lines(file: TextIO, bounds: Bounds, kept: list[str]) -> Iterator[str]:
    """Lines of bounded length, then a mark: a quote left open swallows it, and so is found out.

    Each is ``kept`` too, for who looks at those of a row.
    """
    while line := file.readline(bounds.line):
        if len(line) == bounds.line:
            raise ContactFileError(
                f"the file has a line longer than {bounds.line:,} characters; is it a table?"
            )
        kept.append(line)
        yield line
    yield _END


def _numbered(rows: Iterator[list[str]], bounds: Bounds) -> Iterator[tuple[int, list[str]]]:
    for number, cells in enumerate(rows, 1):
        if number > bounds.rows:
            raise ContactFileError(
                f"the file has more than {bounds.rows:,} rows; split it and import the parts"
            )
        if len(cells) > bounds.columns:
            cells, beyond = cells[: bounds.columns], cells[bounds.columns :]
            if any(beyond):
                raise ContactFileError(
                    in_row(number, f"more than {bounds.columns:,} columns; remove those not needed")
                )
        # Most rows show by their first cell that they are not blank.
        if (cells and cells[0] and not cells[0].isspace()) or any(map(str.strip, cells)):
            yield number, cells
