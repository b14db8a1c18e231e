"""The filters of jobs on the command line: the same words as on the dashboard and in its URLs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from pgsync.cli.output import ask
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.queues import STATES
from pgsync.queues.finding import key_and_value, moment_or_age

__all__ = ["filter_options", "find_jobs", "given_filter", "rows_of"]

F = TypeVar("F", bound=Callable[..., Any])

_AT_ONCE = 1000


class _Moment(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A moment, or how long ago: 2026-02-01, 2026-02-01T08:00, 90s, 30m, 2h, 7d, 1w."""

    name = "MOMENT|AGO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return moment_or_age(str(value)).isoformat()
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


class _Argument(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """An argument of a job and its value: customer.id=7."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return key_and_value(str(value))
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


def filter_options(command: F) -> F:
    """Add the options that narrow down which jobs are meant; all that are given must fit."""
    for option in (
        click.option("--since", type=_Moment(), help="Enqueued since, or so long ago at most: 2h."),
        click.option("--until", type=_Moment(), help="Enqueued before, or longer ago: 2h."),
        click.option("--attempts", type=click.IntRange(1), help="So many attempts at least."),
        click.option(
            "--arg",
            "args",
            type=_Argument(),
            multiple=True,
            help="With this argument; dots lead inside, customer.id=7. Repeat for more.",
        ),
        click.option("--text", help="In the task, queue, keys or errors."),
        click.option("--tag", "tags", multiple=True, help="With this tag. Repeat for more: all."),
        click.option("--task", help="Only this task."),
        click.option("--queue", help="Only this queue."),
        click.option(
            "--state",
            "states",
            type=click.Choice(STATES),
            multiple=True,
            help="Repeat for more: any of them.",
        ),
    ):
        command = option(command)
    return command


def given_filter(given: Mapping[str, Any]) -> dict[str, Any]:
    """The filter for ``pgsync.find_jobs`` of what :func:`filter_options` gave; empty for none."""
    fields = {**given, "args": dict(given["args"])}
    fields |= {name: list(given[name]) for name in ("states", "tags")}
    return {name: value for name, value in fields.items() if value}


def find_jobs(
    sync: Coordinator, wanted: Mapping[str, Any], most: int, before: int | None = None
) -> tuple[list[int], int | None]:
    """The ids of the newest ``most`` jobs that fit, and before which id to go on, if at all.

    Each question to the database is bounded, and so short, however many jobs there are.
    """
    ids: list[int] = []
    while True:
        (row,) = ask(
            sync,
            "SELECT f.ids, f.next_before FROM"
            " pgsync.find_jobs(%(filter)s::jsonb, %(before)s, %(most)s) AS f",
            {
                "filter": json.dumps(dict(wanted)),
                "before": before,
                "most": min(most - len(ids), _AT_ONCE),
            },
        )
        ids += row["ids"]
        before = row["next_before"]
        if before is None or len(ids) >= most:
            return ids, before


def rows_of(sync: Coordinator, ids: list[int]) -> list[dict[str, Any]]:
    """What a list shows of these jobs, the newest first."""
    return ask(
        sync,
        "SELECT j.id, j.queue, j.task, j.args, j.state, j.priority, j.attempt, j.max_attempts,"
        " j.created_at, j.run_at FROM pgsync.all_jobs AS j"
        " WHERE j.id = ANY (%(ids)s::bigint[]) ORDER BY j.id DESC",
        {"ids": ids},
    )
