"""Commands that only read: the state of everything, limits, schedules, operations, workers."""

from __future__ import annotations

import click

from pgsync.cli.output import dsn_option, fetch, json_option, show
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.schedules.calls import pause_schedule, resume_schedule, run_schedule

__all__ = ["limits", "operations", "schedules", "status", "workers"]


@click.command()
@dsn_option
@json_option
def status(dsn: str | None, as_json: bool) -> None:
    """How many locks, jobs, workers, schedules and running operations there are."""
    rows = fetch(
        dsn,
        "SELECT (SELECT count(*) FROM pgsync.locks) AS locks,"
        " (SELECT coalesce(sum(q.available), 0)::bigint FROM pgsync.queues AS q) AS available,"
        " (SELECT coalesce(sum(q.scheduled), 0)::bigint FROM pgsync.queues AS q) AS scheduled,"
        " (SELECT coalesce(sum(q.running), 0)::bigint FROM pgsync.queues AS q) AS running,"
        " (SELECT count(*) FROM pgsync.workers) AS workers,"
        " (SELECT count(*) FROM pgsync.schedules AS s WHERE s.state = 'active') AS schedules,"
        " (SELECT count(*) FROM pgsync.operations AS o WHERE o.state = 'running') AS operations",
    )
    show(rows, as_json=as_json, empty="")


@click.command()
@dsn_option
@json_option
def workers(dsn: str | None, as_json: bool) -> None:
    """The workers, what they claim, and when they were last heard of."""
    rows = fetch(
        dsn,
        "SELECT w.id, w.name, w.queues, w.state, w.running, w.concurrency, w.version, w.silence"
        " FROM pgsync.workers AS w ORDER BY w.id",
    )
    show(rows, as_json=as_json, empty="no workers")


@click.command()
@dsn_option
@json_option
@click.option("--most", type=click.IntRange(1), default=50, show_default=True)
def limits(dsn: str | None, as_json: bool, most: int) -> None:
    """The current window of each limited key, the fullest first."""
    rows = fetch(
        dsn,
        "SELECT l.key, l.per, l.state, l.hits, l.max, l.remaining, l.resets_at, l.penalised_until"
        " FROM pgsync.rate_limits AS l ORDER BY l.hits::float / l.max DESC, l.key LIMIT %(most)s",
        {"most": most},
    )
    show(rows, as_json=as_json, empty="no limits in use")


@click.command()
@dsn_option
@json_option
@click.option("--operation", help="Only runs of this operation.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def operations(dsn: str | None, as_json: bool, operation: str | None, most: int) -> None:
    """The latest runs of operations, refused ones too."""
    rows = fetch(
        dsn,
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.duration, o.done,"
        " o.total, o.error, o.blocked_by FROM pgsync.operations AS o"
        " WHERE %(operation)s::text IS NULL OR o.operation = %(operation)s"
        " ORDER BY o.id DESC LIMIT %(most)s",
        {"operation": operation, "most": most},
    )
    show(rows, as_json=as_json, empty="no operation has run")


@click.group()
def schedules() -> None:
    """Work that recurs."""


@schedules.command("list")
@dsn_option
@json_option
def schedules_list(dsn: str | None, as_json: bool) -> None:
    """Each schedule, its rhythm, and when it is due next."""
    rows = fetch(
        dsn,
        "SELECT s.name, s.state, s.kind, s.expression, s.timezone, s.next_fire_at, s.due_in,"
        " s.last_fire_at, s.last_job_id FROM pgsync.schedules AS s ORDER BY s.next_fire_at, s.name",
    )
    show(rows, as_json=as_json, empty="no schedules")


@schedules.command("run")
@dsn_option
@click.argument("name")
def schedules_run(dsn: str | None, name: str) -> None:
    """Enqueue a schedule's task now, apart from its rhythm."""
    with Coordinator(dsn) as sync:
        job = sync.database.run(run_schedule(name))
    if job is None:
        raise InvalidArgument(f"there is no schedule {name!r}; see pgsync schedules list")
    click.echo(f"enqueued job {job}")


@schedules.command("pause")
@dsn_option
@click.argument("name")
@click.option("--by", help="Who pauses it.")
def schedules_pause(dsn: str | None, name: str, by: str | None) -> None:
    """Stop a schedule's fires."""
    with Coordinator(dsn) as sync:
        paused = sync.database.run(pause_schedule(name, by))
    click.echo("paused" if paused else "nothing to do: it was paused, or there is none")


@schedules.command("resume")
@dsn_option
@click.argument("name")
def schedules_resume(dsn: str | None, name: str) -> None:
    """Let a paused schedule fire again."""
    with Coordinator(dsn) as sync:
        resumed = sync.database.run(resume_schedule(name))
    click.echo("resumed" if resumed else "nothing to do: it was not paused, or there is none")
