"""The calls of workers: each is one SQL function of ``sql/api/4_workers*``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, LiteralString

from psycopg import BaseConnection
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from pgsync.database.calls import Call, Listing, scalar
from pgsync.database.json import to_json
from pgsync.queues.job import Job

__all__ = [
    "change_worker",
    "claim_jobs",
    "complete_job",
    "complete_jobs",
    "completed_jobs",
    "discards_told",
    "fail_job",
    "give_back_jobs",
    "heartbeat",
    "keep_logs",
    "promote_due_jobs",
    "read_jobs",
    "register_worker",
    "release_job",
    "report_progress",
    "rescue_jobs",
    "stop_job",
    "take_discards",
    "unregister_worker",
    "worker_hears",
    "worker_stops",
]


def register_worker(
    name: str,
    host: str,
    pid: int,
    version: str,
    queues: Sequence[str],
    concurrency: int,
    kinds: Sequence[str] = ("worker",),
) -> Call[int]:
    """Make the session that runs this a worker, or what ``kinds`` says; returns its number."""
    return Call(
        "SELECT pgsync.register_worker(%(name)s, %(host)s, %(pid)s, %(version)s,"
        " %(queues)s::text[], %(concurrency)s, %(kinds)s)",
        {
            "name": name,
            "host": host,
            "pid": pid,
            "version": version,
            "queues": list(queues),
            "concurrency": concurrency,
            "kinds": list(kinds),
        },
        scalar,
    )


def change_worker(worker: int, queues: Sequence[str], concurrency: int) -> Call[bool]:
    """Note that a worker claims from these queues from now on, and runs so many jobs at once."""
    return Call(
        "SELECT pgsync.change_worker(%(worker)s, %(queues)s, %(concurrency)s)",
        {"worker": worker, "queues": list(queues), "concurrency": concurrency},
        scalar,
    )


def worker_stops(worker: int) -> Call[bool]:
    """Note that a worker claims no more, and ends when what runs has ended."""
    return Call("SELECT pgsync.worker_stops(%(worker)s)", {"worker": worker}, scalar)


def worker_hears(worker: int, *, hears: bool) -> Call[bool]:
    """Note whether notifications of new jobs reach a worker."""
    return Call(
        "SELECT pgsync.worker_hears(%(worker)s, %(hears)s)",
        {"worker": worker, "hears": hears},
        scalar,
    )


def unregister_worker(worker: int) -> Call[int]:
    """End a worker in order; returns how many jobs went back unspent."""
    return Call("SELECT pgsync.unregister_worker(%(worker)s)", {"worker": worker}, scalar)


def heartbeat(worker: int, *, idle: bool) -> Call[tuple[bool, list[int]]]:
    """Say that the worker lives; learn whether it is known still, and which jobs to cancel."""
    return Call(
        "SELECT h.known, h.cancelled FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.worker_heartbeat(%(worker)s, %(idle)s) AS h",
        {"worker": worker, "idle": idle},
        lambda row: (row[0], row[1]),
    )


def claim_jobs(
    worker: int, queues: Sequence[str], batch: int, weights: Sequence[int] | None = None
) -> Listing[Job]:
    """Take up to ``batch`` jobs, best first; with ``weights``, of each queue its share.

    To be run on a connection that :func:`read_jobs` has been called for.
    """
    return Listing(
        "SELECT c.id, c.queue, c.task, c.args, c.priority, c.attempt, c.max_attempts,"
        " c.created_at, c.run_at, c.key, c.in_batch, c.lock_token"
        # What a crash of the server undoes of a claim it undoes as a whole: the job is available.
        " FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.claim_jobs(%(worker)s, %(queues)s::text[], %(batch)s,"
        " %(weights)s::integer[]) AS c",
        {
            "worker": worker,
            "queues": _names(tuple(queues)),
            "batch": batch,
            "weights": None if weights is None else list(weights),
        },
        Job._make,
        binary=True,
    )


def read_jobs(connection: BaseConnection[Any]) -> None:
    """Have a connection leave JSON and times as they come, which is how :class:`Job` has them."""
    connection.adapters.register_loader("jsonb", ByteaBinaryLoader)
    connection.adapters.register_loader("timestamptz", Int8BinaryLoader)


def report_progress(worker: int, told: Sequence[tuple[int, int, str]]) -> Call[int]:
    """Keep what handlers told of themselves (id, attempt, progress as JSON)."""
    return _keep_told(
        "SELECT p.reported FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.report_progress(%(worker)s, %(ids)s, %(attempts)s,"
        " %(told)s::text[]::jsonb[]) AS p (reported)",
        worker,
        told,
    )


def keep_logs(worker: int, logs: Sequence[tuple[int, int, str]]) -> Call[int]:
    """Keep what attempts that end have logged (id, attempt, lines as JSON)."""
    return _keep_told(
        "SELECT k.kept FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.keep_logs(%(worker)s, %(ids)s, %(attempts)s,"
        " %(told)s::text[]::jsonb[]) AS k (kept)",
        worker,
        logs,
    )


def _keep_told(
    statement: LiteralString, worker: int, told: Sequence[tuple[int, int, str]]
) -> Call[int]:
    return Call(
        statement,
        {
            "worker": worker,
            "ids": [job_id for job_id, _, _ in told],
            "attempts": [attempt for _, attempt, _ in told],
            "told": [text for _, _, text in told],
        },
        scalar,
    )


def complete_jobs(
    worker: int, ids: Sequence[int], attempts: Sequence[int], results: Sequence[str | None]
) -> Call[list[int] | None]:
    """Record completions, each with its result as JSON.

    Returns the ids that were accepted, or None where all were.
    """
    return Call(
        "SELECT CASE WHEN cardinality(c.accepted) < %(jobs)s THEN c.accepted END"
        " FROM pgsync.complete_jobs(%(worker)s, %(ids)s::bigint[], %(attempts)s::integer[],"
        " %(results)s::text[]::jsonb[]) AS c (accepted)",
        {
            "worker": worker,
            "jobs": len(ids),
            "ids": _array(ids),
            "attempts": _array(attempts),
            "results": list(results) if any(results) else None,
        },
        scalar,
    )


def _array(numbers: Sequence[int]) -> str:
    # As the text of an array: adapting a list asks for the type of each element.
    return f"{{{','.join(map(str, numbers))}}}"


@lru_cache(64)
def _names(names: tuple[str, ...]) -> str:
    quoted = (name.replace("\\", r"\\").replace('"', r"\"") for name in names)
    return "{" + ",".join(f'"{name}"' for name in quoted) + "}"


def complete_job(worker: int, job: Job, result: str | None) -> Call[bool]:
    """Complete one job in the caller's transaction; False where the attempt is late."""
    return Call(
        "SELECT pgsync.complete_job(%(worker)s, %(id)s, %(attempt)s, %(result)s::jsonb)",
        {"worker": worker, "id": job.id, "attempt": job.attempt, "result": result},
        scalar,
    )


def completed_jobs(worker: int, ids: Sequence[int]) -> Call[list[int]]:
    """Which of these jobs the history says that the worker has completed."""
    return Call(
        "SELECT coalesce(array_agg(f.id), '{}') FROM pgsync.job_finished AS f"
        " WHERE f.id = ANY (%(ids)s::bigint[]) AND f.worker = %(worker)s"
        " AND f.state = 'completed'",
        {"worker": worker, "ids": list(ids)},
        scalar,
    )


def fail_job(
    worker: int,
    job: Job,
    error: dict[str, Any],
    retry_in: timedelta | None,
    retry_until: timedelta | None = None,
    max_exceptions: int | None = None,
    *,
    will_tell: bool = False,
) -> Call[str | None]:
    """Record a failed attempt; returns the job's new state, None where the attempt is late.

    With ``will_tell`` the caller calls ``on_discard`` and then says so (:func:`discards_told`).
    """
    return Call(
        "SELECT pgsync.fail_job(%(worker)s, %(id)s, %(attempt)s, %(error)s::jsonb, %(retry_in)s,"
        " %(retry_until)s, %(max_exceptions)s::integer, %(will_tell)s)",
        {
            "worker": worker,
            "id": job.id,
            "attempt": job.attempt,
            "error": to_json(error, "the error"),
            "retry_in": retry_in,
            "retry_until": retry_until,
            "max_exceptions": max_exceptions,
            "will_tell": will_tell,
        },
        scalar,
    )


def release_job(worker: int, job: Job, delay: timedelta, reason: str) -> Call[str | None]:
    """Put a running job back for later, its attempt unspent."""
    return Call(
        "SELECT pgsync.release_job(%(worker)s, %(id)s, %(attempt)s, %(delay)s, %(reason)s)",
        {
            "worker": worker,
            "id": job.id,
            "attempt": job.attempt,
            "delay": delay,
            "reason": reason,
        },
        scalar,
    )


def stop_job(worker: int, job: Job, reason: str) -> Call[str | None]:
    """Record that a running job was cancelled, and why."""
    return Call(
        "SELECT pgsync.stop_job(%(worker)s, %(id)s, %(attempt)s, %(reason)s::jsonb)",
        {
            "worker": worker,
            "id": job.id,
            "attempt": job.attempt,
            "reason": to_json({"reason": reason}, "the reason"),
        },
        scalar,
    )


def give_back_jobs(worker: int, ids: Sequence[int]) -> Call[int]:
    """Put running jobs of a worker back, their attempts unspent; returns how many."""
    return Call(
        "SELECT pgsync.give_back_jobs(%(worker)s, NULL, %(ids)s::bigint[])",
        {"worker": worker, "ids": list(ids)},
        scalar,
    )


def rescue_jobs(silence: timedelta) -> Call[int]:
    """Make the jobs of dead workers available again; returns how many."""
    return Call("SELECT pgsync.rescue_jobs(%(silence)s)", {"silence": silence}, scalar)


def take_discards(tasks: Sequence[str]) -> Listing[tuple[Job, str | None, bool]]:
    """Take jobs of these tasks that were discarded and not told, and why; True: by hand.

    To be run on a connection that :func:`read_jobs` has been called for.
    """
    return Listing(
        "SELECT d.id, d.queue, d.task, d.args, d.priority, d.attempt, d.max_attempts,"
        " d.created_at, d.run_at, d.key, d.in_batch, d.error,"
        " (SELECT h.worker IS NULL FROM pgsync.job_history AS h WHERE h.id = d.id)"
        " FROM pgsync.take_discards(%(tasks)s) AS d",
        {"tasks": list(tasks)},
        lambda row: (Job(*row[:-2]), *row[-2:]),
        binary=True,
    )


def discards_told(jobs: Sequence[int]) -> Call[int]:
    """Say that the callbacks of these jobs have been called."""
    return Call("SELECT pgsync.discards_told(%(jobs)s::bigint[])", {"jobs": list(jobs)}, scalar)


def promote_due_jobs() -> Call[int]:
    """Make due jobs available; returns how many."""
    return Call("SELECT pgsync.promote_due_jobs()", {}, scalar)
