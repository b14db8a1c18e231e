"""Jobs enqueued, claimed and ended by plain SQL, for tests in which no worker runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def enqueue(database: Any, queue: str = "default", **options: Any) -> int:
    named = "".join(f", {name} => %({name})s" for name in options)
    statement = f"SELECT pgsync.enqueue('work', queue => %(queue)s{named})"
    job: int = database.execute(statement, {"queue": queue, **options}).fetchone()[0]
    return job


def claim(session: Any, worker: int, batch: int = 10, queues: list[str] | None = None) -> list[int]:
    rows = session.execute(
        "SELECT id FROM pgsync.claim_jobs(%s, %s, %s)", [worker, queues or ["default"], batch]
    )
    return [row[0] for row in rows]


def complete(session: Any, worker: int, *jobs: tuple[int, int]) -> list[int]:
    ids, attempts = [job for job, _ in jobs], [attempt for _, attempt in jobs]
    accepted: list[int] = session.execute(
        "SELECT pgsync.complete_jobs(%s, %s, %s, array_fill(NULL::jsonb, ARRAY[%s]))",
        [worker, ids, attempts, len(jobs)],
    ).fetchone()[0]
    return accepted


def fail(session: Any, worker: int, job: int, attempt: int, retry_in: float | None = 0) -> Any:
    delay = None if retry_in is None else timedelta(seconds=retry_in)
    return session.execute(
        'SELECT pgsync.fail_job(%s, %s, %s, \'{"error": "no"}\', %s)',
        [worker, job, attempt, delay],
    ).fetchone()[0]


def state(database: Any, job: int) -> tuple[str, int]:
    """The job's state and attempt, of the one place that it is in."""
    rows = database.execute(
        "SELECT state, attempt::int FROM pgsync.jobs WHERE id = %(id)s UNION ALL"
        " SELECT state, attempt::int FROM pgsync.job_history WHERE id = %(id)s",
        {"id": job},
    ).fetchall()
    assert len(rows) == 1
    found: tuple[str, int] = rows[0]
    return found


def reason(database: Any, job: int) -> str:
    """Why a job was cancelled."""
    found: str = database.execute(
        "SELECT result ->> 'reason' FROM pgsync.job_history WHERE id = %s", [job]
    ).fetchone()[0]
    return found


def left(database: Any) -> int:
    """How many dependencies are noted."""
    count: int = database.execute("SELECT count(*) FROM pgsync.job_dependency").fetchone()[0]
    return count


def in_use(database: Any) -> dict[str, tuple[int, int]]:
    """Of each key: slots taken, jobs that wait."""
    rows = database.execute("SELECT key, slots_taken, waiting FROM pgsync.job_keys").fetchall()
    return {key: (taken, waiting) for key, taken, waiting in rows}
