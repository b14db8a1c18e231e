"""``pgsync jobs``: what waits, runs and has ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from pgsync.cli import exits
from pgsync.cli.finding import filter_options, find_jobs, given_filter, rows_of
from pgsync.cli.jobs_bulk import cancel, discard, forget, retry
from pgsync.cli.output import count, dsn_option, json_option, printable, show
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.queues.sealing import new_key

__all__ = ["jobs"]


@click.group()
def jobs() -> None:
    """Jobs, live and ended."""


@jobs.command("list")
@dsn_option
@json_option
@filter_options
@click.option("--before", type=int, help="Only those with a lower id: the next page.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def jobs_list(dsn: str | None, as_json: bool, before: int | None, most: int, **given: Any) -> None:
    """The newest jobs, live and ended, that fit all that is asked for."""
    with Coordinator(dsn, pool_size=1) as sync:
        ids, older = find_jobs(sync, given_filter(given), most, before)
        rows = rows_of(sync, ids)
    show(rows, as_json=as_json, empty="no such jobs")
    if older is not None and not as_json:
        click.echo(f"older ones: --before {older}", err=True)


@jobs.command("count")
@dsn_option
@json_option
@filter_options
@click.option("--most", type=click.IntRange(1), default=10_000, show_default=True)
def jobs_count(dsn: str | None, as_json: bool, most: int, **given: Any) -> None:
    """How many jobs fit all that is asked for; counts to --most and no further."""
    with Coordinator(dsn, pool_size=1) as sync:
        found = len(find_jobs(sync, given_filter(given), most + 1)[0])
    if as_json:
        show([{"jobs": min(found, most), "more": found > most}], as_json=True, empty="")
    else:
        click.echo(count(found, most))


@jobs.command("show")
@dsn_option
@json_option
@click.argument("job_id", type=int)
def jobs_show(dsn: str | None, as_json: bool, job_id: int) -> None:
    """One job with every attempt's error and traceback."""
    with Coordinator(dsn, pool_size=1) as sync:
        job = sync.job(job_id)
    if job is None:
        raise InvalidArgument(f"there is no job {job_id}; it may have been pruned")
    if as_json:
        show([asdict(job)], as_json=True, empty="")
        return
    click.echo(f"job {job.id}: {job.task} on queue {job.queue}, {job.state}")
    click.echo(f"attempt {job.attempt} of {job.max_attempts}, due {job.run_at}")
    click.echo(f"arguments {job.args}")
    if job.result is not None:
        click.echo(f"result {job.result}")
    for error in job.errors:
        click.echo(f"\nattempt {error['attempt']} at {error['at']}: {error['error']}")
        click.echo(error.get("traceback", "").rstrip())


@jobs.command("why")
@dsn_option
@json_option
@click.argument("job_id", type=int)
@click.pass_context
def jobs_why(context: click.Context, dsn: str | None, as_json: bool, job_id: int) -> None:
    """What a job waits for. Exit 3 if there is no such job."""
    with Coordinator(dsn, pool_size=1) as sync:
        why = sync.why_not_running(job_id)
    if as_json:
        show([asdict(why)], as_json=True, empty="")
    elif why.state is None:
        click.echo(why.detail)
    else:
        click.echo(f"job {why.id}: {why.task} on queue {why.queue}, {why.state}")
        click.echo(printable(f"{why.reason}: {why.detail}"))
    if why.state is None:
        context.exit(exits.NOTHING)


for command in (retry, cancel, discard, forget):
    jobs.add_command(command)


@jobs.command("new-key")
def jobs_new_key() -> None:
    """Print a new key for PGSYNC_ARGS_KEYS, which encrypts the arguments of jobs."""
    click.echo(new_key())


@jobs.command("reseal")
@dsn_option
def jobs_reseal(dsn: str | None) -> None:
    """Encrypt the arguments of waiting jobs anew, with the first key of PGSYNC_ARGS_KEYS."""
    with Coordinator(dsn) as sync:
        click.echo(f"{sync.reseal_jobs()} jobs have arguments under the first key now")
