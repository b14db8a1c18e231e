"""``pgsync schedules``: work that recurs, seen and steered."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from pgsync.cli.output import by_option, dsn_option, fetch, json_option, show, show_one
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.schedules import Given, upcoming

__all__ = ["schedules"]


class _Arguments(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A JSON object."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            args = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(args, dict):
            self.fail('the arguments are a JSON object, for example {"days": 7}', param, ctx)
        return args


def _rhythm(cron: str | None, every: float | None, at: datetime | None) -> Given:
    given = [value for value in (cron, every, at) if value is not None]
    if len(given) != 1:
        raise InvalidArgument("give one of --cron, --every and --at")
    if at is not None:
        return at.astimezone()
    return every if every is not None else str(cron)


@click.group()
def schedules() -> None:
    """Work that recurs."""


@schedules.command("list")
@dsn_option
@json_option
def schedules_list(dsn: str | None, as_json: bool) -> None:
    """Each schedule, its rhythm, when it is due next, and what became of the last job."""
    rows = fetch(
        dsn,
        "SELECT s.name, s.state, s.kind, s.expression, s.timezone, s.next_fire_at, s.due_in,"
        " s.last_fire_at, s.last_job_state, s.app FROM pgsync.schedules AS s"
        " ORDER BY s.next_fire_at, s.name",
    )
    show(rows, as_json=as_json, empty="no schedules")


@schedules.command("show")
@dsn_option
@json_option
@click.option("--most", type=click.IntRange(0), default=10, show_default=True)
@click.argument("name")
def schedules_show(dsn: str | None, as_json: bool, most: int, name: str) -> None:
    """All about one schedule, and its last fires."""
    rows = fetch(dsn, "SELECT s.* FROM pgsync.schedules AS s WHERE s.name = %(n)s", {"n": name})
    if not rows:
        raise InvalidArgument(f"there is no schedule {name!r}; see pgsync schedules list")
    fires = fetch(
        dsn,
        "SELECT f.fire_time, f.lag, f.by_hand, f.job_id, f.job_state"
        " FROM pgsync.schedule_fires AS f WHERE f.schedule = %(n)s"
        " ORDER BY f.fire_time DESC LIMIT %(most)s",
        {"n": name, "most": most},
    )
    if as_json:
        show_one(rows[0] | {"fires": fires}, as_json=True)
        return
    show_one(rows[0], as_json=False)
    click.echo()
    show(fires, as_json=False, empty="it has not fired yet")


@schedules.command("add")
@dsn_option
@click.option("--task", help="The task that it enqueues; the schedule's name, by default.")
@click.option("--cron", help="A crontab line, for example '*/5 * * * *'.")
@click.option("--every", type=float, help="Seconds.")
@click.option("--at", type=click.DateTime(), help="Once, in this machine's time zone.")
@click.option("--timezone", default="UTC", show_default=True, help="Where a crontab line is meant.")
@click.option("--args", type=_Arguments(), help="The task's arguments.")
@click.option("--queue")
@click.option("--priority", type=int)
@click.option("--max-attempts", type=click.IntRange(1))
@click.option("--misfire", type=click.Choice(["skip", "once", "all"]))
@click.option("--misfire-grace", type=float, help="Seconds.")
@click.option("--misfire-limit", type=click.IntRange(1))
@click.option("--jitter", type=click.FloatRange(0), help="Seconds.")
@click.argument("name")
def schedules_add(
    dsn: str | None,
    name: str,
    task: str | None,
    cron: str | None,
    every: float | None,
    at: datetime | None,
    **options: Any,
) -> None:
    """Make a schedule, or change one that no code declares."""
    given = {key: value for key, value in options.items() if value is not None}
    with Coordinator(dsn) as sync:
        added = sync.add_schedule(name, task or name, _rhythm(cron, every, at), **given)
    click.echo(f"{name} was {'added' if added else 'changed'}; daemons take it up in 2 s")


@schedules.command("remove")
@dsn_option
@by_option("Who does it")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("name")
def schedules_remove(dsn: str | None, name: str, by: str, yes: bool) -> None:
    """Delete a schedule with its history of fires; to stop it for a time, pause it."""
    if not yes:
        click.confirm(f"delete schedule {name} and its fires?", abort=True)
    with Coordinator(dsn) as sync:
        removed = sync.remove_schedule(name, by)
    _changed(removed, "removed", f"there is no schedule {name}")


@schedules.command("run")
@dsn_option
@click.argument("name")
def schedules_run(dsn: str | None, name: str) -> None:
    """Enqueue a schedule's task now, apart from its rhythm."""
    with Coordinator(dsn) as sync:
        job = sync.run_schedule(name)
    if job is None:
        raise InvalidArgument(f"there is no schedule {name!r}; see pgsync schedules list")
    click.echo(f"enqueued job {job}")


@schedules.command("pause")
@dsn_option
@by_option("Who does it")
@click.option("--why", help="For whoever finds it paused.")
@click.argument("name")
def schedules_pause(dsn: str | None, name: str, by: str, why: str | None) -> None:
    """Stop a schedule's fires, also over deploys."""
    with Coordinator(dsn) as sync:
        paused = sync.pause_schedule(name, by, why)
    _changed(paused, "paused", "nothing to do: it was paused, or there is none")


@schedules.command("resume")
@dsn_option
@by_option("Who does it")
@click.argument("name")
def schedules_resume(dsn: str | None, name: str, by: str) -> None:
    """Let a paused schedule fire again; what it missed is made up for as its misfire says."""
    with Coordinator(dsn) as sync:
        resumed = sync.resume_schedule(name, by)
    _changed(resumed, "resumed", "nothing to do: it was not paused, or there is none")


@schedules.command("next")
@dsn_option
@json_option
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--cron", help="Not a schedule's, but this crontab line's.")
@click.option("--timezone", default="UTC", show_default=True, help="Where --cron is meant.")
@click.argument("name", required=False)
def schedules_next(
    dsn: str | None, as_json: bool, count: int, cron: str | None, timezone: str, name: str | None
) -> None:
    """When a schedule is due next (UTC), and when its jobs run; or when a crontab line is."""
    if (name is None) is (cron is None):
        raise InvalidArgument("give the name of a schedule, or --cron LINE")
    if cron is not None:
        fires = [{"fire_time": time} for time in upcoming(cron, count, timezone=timezone)]
    else:
        with Coordinator(dsn) as sync:
            fires = [
                {"fire_time": fire.fire_time, "run_at": fire.run_at}
                for fire in sync.next_fires(str(name), count)
            ]
    show(fires, as_json=as_json, empty="it is not due any more")


def _changed(done: bool, what: str, otherwise: str) -> None:
    click.echo(what if done else otherwise)
