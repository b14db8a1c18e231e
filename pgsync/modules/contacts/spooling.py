"""A workbook as CSV, for who reads it more than once."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path

from pgsync.modules.contacts.errors import ContactFileError
from pgsync.modules.contacts.tables import Bounds, is_workbook, open_table

__all__ = ["as_csv"]


@contextmanager
def as_csv(path: Path, bounds: Bounds | None = None) -> Iterator[Path]:
    """The file itself, or of a workbook a copy as CSV that is gone with the block.

    Its rows keep their numbers. A row of a workbook takes forty times what one of CSV takes.

    Raises:
        ContactFileError: if it is a workbook that cannot be read, or whose copy is larger than a
            file may be, or than there is room.
    """
    bounds = bounds or Bounds()
    if not is_workbook(path):
        yield path
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgsync-import-"))
            copy = Path(folder) / "rows.csv"
            with open_table(path, bounds) as table:
                _write(copy, table.headers, table.rows, bounds.size)
        except OSError as error:
            raise ContactFileError(
                f"the workbook {path.name!r} cannot be unpacked to {tempfile.gettempdir()!r}: "
                f"{error.strerror or error}; make room there, or save it as CSV"
            ) from error
        yield copy


def _write(
    copy: Path, headers: list[str], rows: Iterator[tuple[int, list[str]]], most: int
) -> None:
    size = 0
    with copy.open("w", encoding="utf-8-sig", newline="") as file:
        file.write("sep=,\n")
        writer = csv.writer(file)
        writer.writerow(headers)
        written = 1
        for number, cells in rows:
            # A workbook has a long text once, however many of its cells show it.
            size += sum(map(len, cells))
            if size > most:
                raise ContactFileError(
                    f"the workbook has more than {most:,} characters; split it and import the parts"
                )
            writer.writerows(repeat((), number - written - 1))
            writer.writerow(cells)
            written = number
