"""What the commands share: the option that names the database, and lists as tables or JSON."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString, TypeVar

import click
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgsync.coordinator import Coordinator
from pgsync.database.faults import translated

__all__ = [
    "ask",
    "by_option",
    "count",
    "direct_dsn_option",
    "dsn_option",
    "fetch",
    "json_option",
    "plain_console",
    "printable",
    "show",
    "show_one",
    "span",
    "table",
]

F = TypeVar("F", bound=Callable[..., Any])

_WIDEST = 60
_PIPE_WIDTH = 4000


def dsn_option(command: F) -> F:
    """Add ``--dsn``."""
    return click.option(
        "--dsn",
        envvar="PGSYNC_DSN",
        help="The database, as postgresql://user@host:5432/name. Default: the embedded server.",
    )(command)


def direct_dsn_option(command: F) -> F:
    """Add ``--direct-dsn``, for commands that need a session of their own."""
    return click.option(
        "--direct-dsn",
        envvar="PGSYNC_DIRECT_DSN",
        help="The same database without the pooler that --dsn leads through, if it does.",
    )(command)


def by_option(about: str) -> Callable[[F], F]:
    """Add ``--by``: who does it, which is you unless somebody else is named."""
    return click.option(
        "--by",
        help=f"{about}; you, by default.",
        callback=lambda _context, _option, given: given or getpass.getuser(),
    )


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def fetch(
    dsn: str | None, query: LiteralString, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of a query on one of pgsync's views."""
    with Coordinator(dsn, pool_size=1) as sync:
        return ask(sync, query, parameters)


def ask(
    sync: Coordinator, query: LiteralString, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """As :func:`fetch`, where there is a coordinator already."""
    with (
        sync.database.connection() as connection,
        translated(),
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        return cursor.execute(query, parameters or {}).fetchall()


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows as a table for people, or as a JSON array for scripts."""
    if as_json:
        click.echo(json.dumps(rows, default=_to_json, ensure_ascii=False))
    elif not rows:
        click.echo(empty)
    else:
        shown = table(*rows[0])
        for row in rows:
            shown.add_row(*(_cell(value) for value in row.values()))
        plain_console().print(shown)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing, a line for each of its values that there are; or JSON, as :func:`show`."""
    if as_json:
        show([row], as_json=True, empty="")
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in row.items():
        if value is not None:
            grid.add_row(Text(name.replace("_", " "), style="bold"), _cell(value))
    plain_console().print(grid)


def table(*columns: str) -> Table:
    """An empty table in the style of all commands. What does not fit is folded, never cut off."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    return shown


def plain_console() -> Console:
    """Standard output, which takes text as it is. In a pipe a row is a line, however long."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def count(number: int, most: int) -> str:
    """A number that was counted to ``most`` and no further."""
    return f"{number:,}" if number <= most else f"{most:,}+"


def span(duration: timedelta | None) -> str:
    """A duration for people: milliseconds, then seconds, then hours and minutes."""
    if duration is None:
        return ""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def printable(text: str) -> str:
    """The text on one line, without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case timedelta():
            return str(timedelta(seconds=round(value.total_seconds())))
        case dict() | list():
            text = json.dumps(value, ensure_ascii=False, default=str)
        case _:
            text = str(value)
    clean = printable(text)
    return clean if len(clean) <= _WIDEST else f"{clean[: _WIDEST - 1]}…"
