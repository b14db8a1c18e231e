"""``pgsync jobs``: what waits, runs and has ended."""

from __future__ import annotations

from dataclasses import asdict

import click

from pgsync.cli.output import dsn_option, fetch, json_option, printable, show
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.queues.sealing import new_key

__all__ = ["jobs"]

_NO_SUCH_JOB = 3


@click.group()
def jobs() -> None:
    """Jobs, live and ended."""


@jobs.command("list")
@dsn_option
@json_option
@click.option("--queue", help="Only this queue.")
@click.option("--state", help="available, scheduled, running, retryable, completed, discarded...")
@click.option("--task", help="Only this task.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def jobs_list(
    dsn: str | None,
    as_json: bool,
    queue: str | None,
    state: str | None,
    task: str | None,
    most: int,
) -> None:
    """The newest jobs."""
    rows = fetch(
        dsn,
        "SELECT j.id, j.queue, j.task, j.args, j.state, j.priority, j.attempt, j.max_attempts,"
        " j.created_at, j.run_at FROM ("
        "  SELECT l.id, l.queue, l.task, l.args, l.state, l.priority, l.attempt, l.max_attempts,"
        "   l.created_at, l.run_at FROM pgsync.jobs AS l"
        "  UNION ALL"
        "  SELECT h.id, h.queue, h.task, h.args, h.state, h.priority, h.attempt, h.max_attempts,"
        "   h.created_at, h.run_at FROM pgsync.job_history AS h) AS j"
        " WHERE (%(queue)s::text IS NULL OR j.queue = %(queue)s)"
        " AND (%(state)s::text IS NULL OR j.state = %(state)s)"
        " AND (%(task)s::text IS NULL OR j.task = %(task)s)"
        " ORDER BY j.id DESC LIMIT %(most)s",
        {"queue": queue, "state": state, "task": task, "most": most},
    )
    show(rows, as_json=as_json, empty="no such jobs")


@jobs.command("show")
@dsn_option
@click.argument("job_id", type=int)
def jobs_show(dsn: str | None, job_id: int) -> None:
    """One job with every attempt's error and traceback."""
    with Coordinator(dsn) as sync:
        job = sync.job(job_id)
    if job is None:
        raise InvalidArgument(f"there is no job {job_id}; it may have been pruned")
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
        context.exit(_NO_SUCH_JOB)


@jobs.command("retry")
@dsn_option
@click.argument("job_ids", type=int, nargs=-1, required=True)
def jobs_retry(dsn: str | None, job_ids: tuple[int, ...]) -> None:
    """Make waiting, discarded or cancelled jobs available now."""
    with Coordinator(dsn) as sync:
        for job_id in job_ids:
            click.echo(f"{job_id} {sync.retry_job(job_id) or 'nothing to retry'}")


@jobs.command("cancel")
@dsn_option
@click.option("--reason")
@click.argument("job_ids", type=int, nargs=-1, required=True)
def jobs_cancel(dsn: str | None, reason: str | None, job_ids: tuple[int, ...]) -> None:
    """Cancel waiting jobs, and ask running ones to stop."""
    with Coordinator(dsn) as sync:
        for job_id in job_ids:
            click.echo(f"{job_id} {sync.cancel_job(job_id, reason) or 'has ended'}")


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
