"""A progress bar for an operation that runs in this process, on a terminal's standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from pgsync.cli.output import ask
from pgsync.cli.repeating import repeating
from pgsync.coordinator import Coordinator
from pgsync.errors import PgsyncError

__all__ = ["showing_progress"]

_SECONDS = 0.5
_NEWEST: LiteralString = """
SELECT o.done, o.total FROM pgsync.operations AS o
WHERE o.id > %(mark)s AND o.operation = %(operation)s ORDER BY o.id DESC LIMIT 1
"""


@contextmanager
def showing_progress(
    sync: Coordinator, operation: str, console: Console | None = None
) -> Iterator[None]:
    """Show how far the newest run of ``operation`` that begins in this block has come.

    It reads ``pgsync.operations``, as anybody may, twice a second. Shows nothing where standard
    error is no terminal.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    mark = ask(sync, "SELECT coalesce(max(o.id), 0) AS id FROM pgsync.operations AS o")[0]["id"]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(operation, total=None)

        def look() -> None:
            # What is wrong with the database, the operation itself says.
            with suppress(PgsyncError):
                for row in ask(sync, _NEWEST, {"mark": mark, "operation": operation}):
                    progress.update(bar, completed=row["done"] or 0, total=row["total"])

        with repeating(look, _SECONDS):
            yield
