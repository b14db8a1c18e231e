"""``pgsync jobs retry|cancel|discard|forget``: jobs named by ids, or all that a filter finds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import click
from rich.console import Console
from rich.progress import track

from pgsync.cli import exits
from pgsync.cli.finding import filter_options, find_jobs, given_filter
from pgsync.cli.output import ask, dsn_option
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.queues import ENDED
from pgsync.queues.finding import ACTS_ON

__all__ = ["cancel", "discard", "forget", "retry"]

_AT_ONCE = 500
"""So many jobs a transaction, with one audit entry."""


@dataclass(frozen=True, slots=True)
class _Action:
    """What is done, in words and in SQL, and to which states where none is named."""

    verb: str
    done: str
    not_done: str
    usual: tuple[str, ...]
    call: LiteralString


_RETRY = _Action(
    "retry",
    "retried",
    "nothing to retry",
    ("discarded", "cancelled", "retryable"),
    "SELECT * FROM pgsync.retry_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
)
_CANCEL = _Action(
    "cancel",
    "cancelled, or asked to stop",
    "has ended",
    ACTS_ON["cancel"],
    "SELECT * FROM pgsync.cancel_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
)
_DISCARD = _Action(
    "discard",
    "discarded",
    "runs, or has ended",
    ACTS_ON["discard"],
    "SELECT * FROM pgsync.discard_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
)

_FORGET = _Action(
    "forget",
    "forgotten",
    "has not ended, or is not there",
    ("discarded", "cancelled"),
    "SELECT * FROM pgsync.forget_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
)
_CHANGES = {**ACTS_ON, "forget": ENDED}


def _command(action: _Action, short: str, whole: str) -> click.Command:
    @click.command(action.verb, short_help=short, help=f"{short}\n\n{whole}")
    @dsn_option
    @filter_options
    @click.option(
        "--most",
        type=click.IntRange(1),
        default=1000,
        show_default=True,
        help="Of those that a filter finds, so many, the newest.",
    )
    @click.option("--by", help="Who does it, for the audit trail.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.argument("job_ids", type=int, nargs=-1)
    def act(
        dsn: str | None,
        most: int,
        by: str | None,
        yes: bool,
        job_ids: tuple[int, ...],
        **given: Any,
    ) -> None:
        wanted = given_filter(given)
        if bool(wanted) == bool(job_ids):
            raise click.UsageError(
                f"say which jobs to {action.verb}: by their ids, or by a filter like --queue mail"
            )
        with Coordinator(dsn, pool_size=1) as sync:
            if job_ids:
                changed = sum(_one(sync, action, job, by) for job in job_ids)
            else:
                changed = _all(sync, action, wanted, most, by, yes)
        click.get_current_context().exit(0 if changed or wanted else exits.NOTHING)

    return act


def _one(sync: Coordinator, action: _Action, job: int, by: str | None) -> int:
    (row,) = ask(sync, action.call, {"filter": None, "ids": [job], "by": by})
    if not row["changed"]:
        click.echo(f"{job} {action.not_done}")
        return 0
    state = "available"
    if action is not _RETRY:
        found = sync.job(job)
        state = found.state if found else action.done
    click.echo(f"{job} {state}")
    return 1


def _all(
    sync: Coordinator,
    action: _Action,
    wanted: dict[str, Any],
    most: int,
    by: str | None,
    yes: bool,
) -> int:
    states = wanted.setdefault("states", list(action.usual))
    if wrong := [state for state in states if state not in _CHANGES[action.verb]]:
        raise InvalidArgument(f"one cannot {action.verb} jobs that are {' or '.join(wrong)}")
    ids, older = find_jobs(sync, wanted, most)
    if not ids:
        click.echo("no such jobs")
        return 0
    many = f"{len(ids):,} job{'' if len(ids) == 1 else 's'}"
    more = "" if older is None else "; there may be older ones, see --most"
    click.echo(f"{many} to {action.verb}, ids {ids[-1]} to {ids[0]}{more}", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"add --yes to {action.verb} {many}")
        click.confirm(f"{action.verb.capitalize()} {many}?", abort=True)
    changed = passed_over = 0
    for part in _parts(ids):
        given = {"filter": json.dumps(wanted), "ids": part, "by": by}
        (row,) = ask(sync, action.call, given)
        changed += row["changed"]
        passed_over += row["passed_over"]
    click.echo(
        f"{changed:,} {action.done}" + (f", {passed_over:,} passed over" if passed_over else "")
    )
    return changed


def _parts(ids: list[int]) -> Iterator[list[int]]:
    parts = [ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)]
    console = Console(stderr=True)
    yield from track(
        parts, console=console, transient=True, disable=len(parts) < 2 or not console.is_terminal
    )


retry = _command(
    _RETRY,
    "Make jobs available now.",
    "Those named, or those discarded, cancelled or retryable ones that a filter finds. Exit 3 if "
    "there was nothing to retry of those named.",
)
cancel = _command(
    _CANCEL,
    "Cancel waiting jobs, and ask running ones to stop.",
    "Those named, or those that a filter finds. Exit 3 if those named had ended.",
)
discard = _command(
    _DISCARD,
    "Give up on jobs that wait.",
    "Those named, or those that a filter finds. Exit 3 if none of those named waits.",
)
forget = _command(
    _FORGET,
    "Remove ended jobs from the history, before their time.",
    "Those named, or those discarded or cancelled ones that a filter finds. Exit 3 if none of those"
    " named has ended.",
)
