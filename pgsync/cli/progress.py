"""A progress bar for an operation that runs in this process, on a terminal's standard error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
from pgsync.coordinator import Coordinator
from pgsync.errors import PgsyncError

__all__ = ["showing_progress"]

_SECONDS = 0.5


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
    stop = threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(operation, total=None)

        def follow() -> None:
            while not stop.wait(_SECONDS):
                try:
                    rows = ask(
                        sync,
                        "SELECT o.done, o.total FROM pgsync.operations AS o"
                        " WHERE o.id > %(mark)s AND o.operation = %(operation)s"
                        " ORDER BY o.id DESC LIMIT 1",
                        {"mark": mark, "operation": operation},
                    )
                except PgsyncError:
                    continue  # The operation itself says what is wrong.
                for row in rows:
                    progress.update(bar, completed=row["done"] or 0, total=row["total"])

        thread = threading.Thread(target=follow, name="pgsync-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
