"""``pgsync status``: what is going on, and what needs a person, without counting big tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any, LiteralString

import click
from psycopg.rows import dict_row
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgsync.cli.output import (
    count,
    dsn_option,
    json_option,
    plain_console,
    printable,
    show,
    span,
    table,
)
from pgsync.coordinator import Coordinator
from pgsync.database.faults import translated
from pgsync.doctor import WORK, Finding
from pgsync.errors import ConnectionFailed

__all__ = ["status"]

_NOW: LiteralString = """
    SELECT
        (SELECT count(*) FROM pgsync.worker) AS workers,
        (SELECT count(*) FROM pgsync.locks) AS locks,
        (SELECT count(*) FROM pgsync.schedules AS s WHERE s.state = 'active') AS schedules,
        (SELECT count(*) FROM pgsync.operations AS o WHERE o.state = 'running') AS operations,
        f.jobs_per_minute, f.jobs_past_hour, f.discarded_past_hour, f.discarded_past_week,
        f.longest_wait_past_hour, f.counted_until
    FROM pgsync.figures AS f
"""
_QUEUES: LiteralString = """
    SELECT coalesce(n.queue, w.queue) AS queue, coalesce(n.available, 0) AS available,
           coalesce(n.scheduled, 0) AS scheduled, coalesce(n.waiting, 0) AS waiting,
           coalesce(n.running, 0) AS running, n.oldest_ready,
           coalesce(w.jobs_past_hour, 0) AS jobs_past_hour,
           coalesce(w.discarded_past_hour, 0) AS discarded_past_hour, w.mean_wait, w.mean_run
    FROM pgsync.queues_now(%(most)s) AS n FULL JOIN pgsync.workload AS w ON w.queue = n.queue
    ORDER BY available DESC, jobs_past_hour DESC, queue
"""
_WAITING = ("available", "scheduled", "waiting", "running")
_COUNTED_TO = 10_000
_QUEUES_SHOWN = 20
_SHOWN = 10
"""So many things that need a person are shown; JSON has all."""


@click.command()
@dsn_option
@json_option
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
def status(dsn: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """What is going on, and what needs a person.

    It counts no big table: what ended comes from the statistics, which a daemon keeps.
    """
    # Ctrl-C is how a watch ends, whether it comes while it looks, shows or waits.
    ended = suppress(KeyboardInterrupt) if watch else nullcontext()
    with ended, Coordinator(dsn, pool_size=1) as sync:
        if as_json:
            for found in _looks(sync, interval if watch else None):
                show([found], as_json=True, empty="")
        elif watch:
            with Live(console=plain_console(), auto_refresh=False) as live:
                for found in _looks(sync, interval):
                    live.update(_picture(found), refresh=True)
        else:
            plain_console().print(_picture(_look(sync)))


def _looks(sync: Coordinator, interval: float | None) -> Iterator[Mapping[str, Any]]:
    """Look once, or again and again. A database that is away for a while is waited for."""
    yield _look(sync)
    while interval is not None:
        time.sleep(interval)
        try:
            yield _look(sync)
        except ConnectionFailed as error:
            yield {"error": str(error)}


def _look(sync: Coordinator) -> Mapping[str, Any]:
    with sync.database.connection() as connection, translated():
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(_NOW).fetchone() or {}
            queues = cursor.execute(_QUEUES, {"most": _COUNTED_TO + 1}).fetchall()
        findings = [f for check in WORK for f in check.look(connection) if f.level != "ok"]
    found.update({state: sum(each[state] for each in queues) for state in _WAITING})
    found["oldest_ready"] = max(
        (q["oldest_ready"] for q in queues if q["oldest_ready"]), default=None
    )
    found["queues"] = queues
    found["attention"] = [asdict(each) for each in [*_discarded(found), *findings]]
    return found


def _discarded(found: Mapping[str, Any]) -> Iterator[Finding]:
    for jobs, ago in (
        (found["discarded_past_hour"], "hour"),
        (found["discarded_past_week"], "week"),
    ):
        if jobs:
            yield Finding(
                "discarded jobs",
                "warning",
                f"{jobs:,} job{'s were' if jobs > 1 else ' was'} discarded in the past {ago}",
                "pgsync jobs list --state discarded, then jobs retry or jobs forget",
            )
            return


def _picture(found: Mapping[str, Any]) -> RenderableType:
    if "error" in found:
        return Text(f"the database is away: {found['error']}", style="red")
    parts: list[RenderableType] = [_headline(found)]
    if found["queues"]:
        parts += ["", _queues(found["queues"])]
    if found["attention"]:
        parts += ["", Text("needs a person", style="bold")]
        parts += [_needed(each) for each in found["attention"][:_SHOWN]]
    return Group(*parts)


def _headline(found: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 3))
    for name, figures in (
        (
            "ended",
            (
                f"{found['jobs_per_minute']:,} a minute, {found['jobs_past_hour']:,} in the past "
                f"hour, {found['discarded_past_hour']:,} of them discarded"
            ),
        ),
        (
            "jobs",
            ", ".join(f"{count(found[state], _COUNTED_TO)} {state}" for state in _WAITING),
        ),
        (
            "oldest",
            f"{span(found['oldest_ready'])} ready" if found["oldest_ready"] else "none waits",
        ),
        (
            "now",
            (
                f"{found['workers']} workers, {found['operations']} operations, "
                f"{found['locks']} locks, {found['schedules']} schedules"
            ),
        ),
    ):
        grid.add_row(Text(name, style="bold"), figures)
    return grid


def _queues(queues: list[dict[str, Any]]) -> Table:
    shown = table(
        "queue",
        *_WAITING,
        "oldest",
        "past hour",
        "discarded",
        "wait",
        "run",
    )
    for each in queues[:_QUEUES_SHOWN]:
        shown.add_row(
            printable(each["queue"]),
            *(count(each[state], _COUNTED_TO) for state in _WAITING),
            span(each["oldest_ready"]),
            f"{each['jobs_past_hour']:,}",
            f"{each['discarded_past_hour']:,}",
            span(each["mean_wait"]),
            span(each["mean_run"]),
        )
    return shown


def _needed(finding: Mapping[str, Any]) -> Text:
    colour = "red" if finding["level"] == "failure" else "yellow"
    text = Text(f"  {printable(finding['found'])}", style=colour)
    if finding["remedy"]:
        text.append(f"\n    do: {printable(finding['remedy'])}", style="default")
    return text
