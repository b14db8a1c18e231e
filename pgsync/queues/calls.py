"""The calls of job queues: each is one SQL function of ``sql/api/3_queues*``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, LiteralString

from pgsync.database.calls import Call, Listing, in_utc, moment, scalar
from pgsync.database.json import to_json, to_json_each
from pgsync.errors import InvalidArgument
from pgsync.queues.carried import tagged, tags_in
from pgsync.queues.sealing import seal_text
from pgsync.queues.unique import Unique

__all__ = [
    "Enqueued",
    "JobOptions",
    "JobState",
    "add_job",
    "add_jobs",
    "args_text",
    "args_texts",
    "cancel_job",
    "find_job",
    "live_jobs",
    "pause_queue",
    "replace_args",
    "resume_queue",
    "retry_job",
    "sealed_jobs",
]

# The kernel has the same bound; here it spares sending what would be refused.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Where and when a job runs. Lower ``priority`` runs first.

    Without ``run_at`` and ``delay`` (from now, by the server's clock) it may run at once. Of the
    jobs with one ``key`` at most ``key_limit`` run at once, and when ``ordered`` one after another.
    It starts when the jobs of ``after`` have ended, and is cancelled where one was discarded
    or cancelled, unless ``after_failed``. It is not claimed while its ``lock`` is held. Within a
    queue each ``tenant`` has its turn. By ``tags`` people find it.
    """

    queue: str = "default"
    priority: int = 0
    run_at: datetime | None = None
    delay: timedelta | None = None
    unique_key: str | None = None
    max_attempts: int = 5
    key: str | Callable[[dict[str, Any]], str] | None = None
    key_limit: int | None = None
    ordered: bool = False
    unique: Unique | None = None
    encrypt: bool = False
    batch: int | None = None
    after: Sequence[int] | None = None
    after_failed: bool = False
    lock: Callable[[dict[str, Any]], str] | None = None
    tenant: str | Callable[[dict[str, Any]], str] | None = None
    tags: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing beyond a place, a time and a unique key of its own."""
        rest = (self.key, self.unique, self.batch, self.after, self.lock, self.tenant)
        return all(option is None for option in rest)

    @property
    def is_place_and_time(self) -> bool:
        """Whether it has nothing beyond a place and a time: no unique key either."""
        return self.is_plain and self.unique_key is None

    @property
    def is_place(self) -> bool:
        """Whether it has nothing beyond a queue, a priority and attempts: it may run at once."""
        return self.batch is None and self.is_place_or_batch

    @property
    def is_place_or_batch(self) -> bool:
        """As :attr:`is_place`, but it may be of a batch."""
        return bool(_beyond_place(self) == _NO_MORE)

    def key_of(self, args: dict[str, Any]) -> str | None:
        """The concurrency key of a job with these arguments."""
        return self.key(args) if callable(self.key) else self.key

    def lock_of(self, args: dict[str, Any]) -> str | None:
        """The lock that a job with these arguments runs under."""
        return None if self.lock is None else self.lock(args)

    def tenant_of(self, args: dict[str, Any]) -> str | None:
        """Whose job one with these arguments is."""
        return self.tenant(args) if callable(self.tenant) else self.tenant


_PLACE = {"queue", "priority", "max_attempts", "encrypt", "batch", "tags"}
_beyond_place = attrgetter(*(f.name for f in fields(JobOptions) if f.name not in _PLACE))
_NO_MORE = _beyond_place(JobOptions())


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that was enqueued, or (``added`` False) the other one that has its unique key.

    ``replaced``: whether that one was given this one's arguments or time, as asked for.
    """

    id: int
    added: bool
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as the view ``pgsync.all_jobs`` shows it."""

    id: int
    queue: str
    task: str
    args: dict[str, Any]
    state: str
    priority: int
    attempt: int
    max_attempts: int
    created_at: datetime
    run_at: datetime
    errors: list[dict[str, Any]]
    result: Any
    progress: dict[str, Any] | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, which travel with its arguments."""
        return tags_in(self.args)


def args_text(args: dict[str, Any], task: str, options: JobOptions) -> str:
    """The arguments as JSON text, encrypted where the options say so.

    Raises:
        InvalidArgument: if JSON cannot say them, or they have more than 1 MB.
    """
    return args_texts([args], task, options)[0]


def args_texts(many_args: Sequence[dict[str, Any]], task: str, options: JobOptions) -> list[str]:
    """As :func:`args_text`, of many jobs."""
    if options.tags and not options.encrypt:
        many_args = [tagged(args, options.tags) for args in many_args]
    texts = to_json_each(many_args, f"the arguments of {task}")
    if options.encrypt:
        texts = [seal_text(text, options.tags) for text in texts]
    # No character has more than four bytes.
    if max(map(len, texts), default=0) * 4 > _MOST_BYTES:
        for text in texts:
            _check_size(len(text.encode()), task)
    return texts


def _check_size(size: int, task: str) -> None:
    if size > _MOST_BYTES:
        raise InvalidArgument(
            f"the arguments of {task} must have at most 1 MB ({_MOST_BYTES} bytes) as JSON,"
            f" these have {size}; store the data in a table and pass its key"
        )


def add_job(task: str, args: dict[str, Any], options: JobOptions) -> Call[Enqueued]:
    """Enqueue one job."""
    values = {
        "task": task,
        "args": args_text(args, task, options),
        "queue": options.queue,
        "priority": options.priority,
        "run_at": options.run_at,
        "delay": options.delay,
        "unique_key": options.unique_key,
        "max_attempts": options.max_attempts,
    }
    if options.is_plain:
        return Call(
            "SELECT j.id, j.added FROM pgsync.add_job(%(task)s, %(args)s::jsonb,"
            " %(queue)s::text, %(priority)s::integer, %(run_at)s, %(unique_key)s::text,"
            " %(max_attempts)s::integer, %(delay)s) AS j",
            values,
            lambda row: Enqueued(*row),
        )
    unique = options.unique or Unique()
    values |= {
        "key": options.key_of(args),
        "key_limit": options.key_limit,
        "ordered": options.ordered,
        "unique": options.unique is not None,
        "by": unique.by,
        "unique_for": unique.period,
        "states": unique.states,
        "replace": unique.replace,
        "batch": options.batch,
        "after": None if options.after is None else list(options.after),
        "after_failed": options.after_failed,
        "lock_name": options.lock_of(args),
        "tenant": options.tenant_of(args),
    }
    return Call(
        "SELECT j.id, j.added, j.replaced FROM pgsync.add_job(%(task)s, %(args)s::jsonb,"
        " %(queue)s::text, %(priority)s::integer, %(run_at)s, coalesce(%(unique_key)s::text,"
        " CASE WHEN %(unique)s THEN pgsync.unique_key(%(task)s, %(args)s::jsonb, %(by)s::text[])"
        " END), %(max_attempts)s::integer, %(delay)s, %(key)s, %(key_limit)s::integer, %(ordered)s,"
        " %(unique_for)s, %(states)s, %(replace)s, %(batch)s::bigint, %(after)s::bigint[],"
        " %(after_failed)s, %(lock_name)s, %(tenant)s) AS j",
        values,
        lambda row: Enqueued(*row),
    )


def add_jobs(
    task: str, many_args: Iterable[dict[str, Any]], options: JobOptions
) -> Call[list[int]]:
    """Enqueue many jobs of one task; their ids come back in the same order."""
    jobs = list(many_args)
    return Call(
        # A line each, as JSON text has no line break of its own: an array would be quoted first.
        "SELECT pgsync.add_jobs(%(task)s, ARRAY(SELECT l.line::jsonb"
        " FROM string_to_table(%(lines)s, chr(10)) WITH ORDINALITY AS l (line, number)"
        " ORDER BY l.number), %(queue)s::text,"
        " %(priority)s::integer, %(run_at)s, %(max_attempts)s::integer, %(delay)s,"
        " %(keys)s::text[], %(key_limit)s::integer, %(ordered)s, %(batch)s::bigint,"
        " %(after)s::bigint[], %(after_failed)s, %(lock_names)s::text[], %(tenants)s::text[])",
        {
            "task": task,
            "lines": "\n".join(args_texts(jobs, task, options)),
            "queue": options.queue,
            "priority": options.priority,
            "run_at": options.run_at,
            "delay": options.delay,
            "max_attempts": options.max_attempts,
            "keys": None if options.key is None else [options.key_of(args) for args in jobs],
            "key_limit": options.key_limit,
            "ordered": options.ordered,
            "batch": options.batch,
            "after": None if options.after is None else list(options.after),
            "after_failed": options.after_failed,
            "lock_names": options.lock and [options.lock_of(args) for args in jobs],
            "tenants": options.tenant and [options.tenant_of(args) for args in jobs],
        },
        scalar,
    )


def sealed_jobs(after: int, batch: int) -> Listing[tuple[int, dict[str, Any]]]:
    """Waiting jobs with encrypted arguments, by id from the one after ``after``."""
    return Listing(
        "SELECT j.id, j.args FROM pgsync.jobs AS j WHERE j.id > %(after)s::bigint"
        " AND j.args ? 'pgsync:sealed' AND j.state <> 'running' ORDER BY j.id LIMIT %(batch)s",
        {"after": after, "batch": batch},
        lambda row: (row[0], row[1]),
    )


def replace_args(jobs: Sequence[tuple[int, str, str]]) -> Call[int]:
    """Give waiting jobs (id, arguments now, arguments then) others; returns how many had them."""
    return Call(
        "SELECT pgsync.replace_args(%(ids)s::bigint[], %(now)s::text[]::jsonb[],"
        " %(then)s::text[]::jsonb[])",
        {
            "ids": [job_id for job_id, _, _ in jobs],
            "now": [now for _, now, _ in jobs],
            "then": [then for _, _, then in jobs],
        },
        scalar,
    )


def cancel_job(id: int, reason: str | None) -> Call[str | None]:
    """Cancel a job: ``cancelled``, ``running`` (it has been asked to stop), or None."""
    return Call(
        "SELECT pgsync.cancel_job(%(id)s::bigint, %(reason)s::text)",
        {"id": id, "reason": reason},
        scalar,
    )


def retry_job(id: int) -> Call[str | None]:
    """Make a job available now; None where there is none to retry."""
    return Call("SELECT pgsync.retry_job(%(id)s::bigint)", {"id": id}, scalar)


def pause_queue(queue: str, by: str | None) -> Call[datetime]:
    """Stop claims from a queue; returns since when it is paused."""
    return Call(
        "SELECT pgsync.pause_queue(%(queue)s::text, %(by)s::text)",
        {"queue": queue, "by": by},
        moment,
    )


def resume_queue(queue: str, by: str | None) -> Call[bool]:
    """End a pause; False where there was none."""
    return Call(
        "SELECT pgsync.resume_queue(%(queue)s::text, %(by)s::text)",
        {"queue": queue, "by": by},
        scalar,
    )


_STATE_OF_JOB: LiteralString = (
    "SELECT j.id, j.queue, j.task, j.args, j.state, j.priority, j.attempt, j.max_attempts,"
    " j.created_at, j.run_at, coalesce(j.errors, '[]'), "
)


def find_job(id: int) -> Listing[JobState]:
    """The job, live or ended; an empty list where there is none."""
    return Listing(
        _STATE_OF_JOB + "j.result, j.progress FROM pgsync.all_jobs AS j"
        " WHERE j.id = %(id)s::bigint",
        {"id": id},
        lambda row: JobState(*in_utc(row)),
    )


def live_jobs(task: str | None, queue: str | None, args: dict[str, Any]) -> Listing[JobState]:
    """The jobs that have not ended, of this task and queue, whose arguments include ``args``."""
    return Listing(
        _STATE_OF_JOB + "NULL::jsonb, j.progress FROM pgsync.jobs AS j"
        " WHERE (%(task)s::text IS NULL OR j.task = %(task)s)"
        " AND (%(queue)s::text IS NULL OR j.queue = %(queue)s)"
        " AND j.args @> %(args)s::jsonb ORDER BY j.id",
        {"task": task, "queue": queue, "args": to_json(args, "the arguments")},
        lambda row: JobState(*in_utc(row)),
    )
