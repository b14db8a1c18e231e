"""What the demo shows while it runs: the same views that anybody may SELECT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from pgsync.cli.repeating import repeating

__all__ = ["Screen"]

_SECONDS = 0.25
_OPERATIONS = (
    "SELECT o.operation, o.key, o.state, o.done, o.total, o.blocked_by,"
    " round(extract(epoch FROM o.duration)::numeric, 1)::text || ' s' AS took"
    " FROM pgsync.operations AS o WHERE o.id > %(mark)s ORDER BY o.id DESC LIMIT 12"
)
_LOCKS = (
    "SELECT l.name, l.token, l.owner, round(extract(epoch FROM l.remaining))::text || ' s' AS left"
    " FROM pgsync.locks AS l ORDER BY l.name"
)
_QUEUES = (
    "SELECT q.name, q.available, q.running, q.scheduled FROM pgsync.queues AS q ORDER BY q.name"
)


class Screen:
    """Writes to standard error, so that standard output keeps to the figures."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = not quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    @contextmanager
    def watching(self, dsn: str, mark: int) -> Iterator[None]:
        """Show operations since ``mark``, locks and queues, read afresh four times a second."""
        if not self._live:
            yield
            return
        with (
            psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection,
            Live(console=self._console, auto_refresh=False, transient=True) as live,
        ):

            def refresh() -> None:
                live.update(_picture(connection, mark), refresh=True)

            with repeating(refresh, _SECONDS):
                yield


def _picture(connection: psycopg.Connection[dict[str, Any]], mark: int) -> Group:
    operations = Table("operation", "key", "state", "progress", "took", title="pgsync.operations")
    for row in connection.execute(_OPERATIONS, {"mark": mark}):
        progress: Any = row["blocked_by"] or ""
        if row["total"]:
            progress = ProgressBar(total=row["total"], completed=row["done"], width=24)
        operations.add_row(row["operation"], row["key"], row["state"], progress, row["took"])
    return Group(
        operations,
        _plain("pgsync.locks", connection.execute(_LOCKS).fetchall()),
        _plain("pgsync.queues", connection.execute(_QUEUES).fetchall()),
    )


def _plain(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        *(rows[0] if rows else ("none",)), title=title, title_justify="left", min_width=len(title)
    )
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
