"""The options of tasks, and what can be changed of them for one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from pgsync.durations import Duration
from pgsync.errors import InvalidArgument
from pgsync.naming import NameTemplate
from pgsync.queues.calls import Enqueued, JobOptions
from pgsync.queues.carried import check_tags
from pgsync.queues.job import Job
from pgsync.queues.retry import Backoff, Errors
from pgsync.queues.unique import Unique, unique_from

__all__ = ["JobChanges", "TaskOptions", "job_options"]

_JOB_OPTIONS = ("queue", "priority", "max_attempts")


class JobChanges(TypedDict, total=False):
    """What can be changed for one job; see :class:`JobOptions`.

    ``delay`` is in seconds from now by the server's clock, ``run_at`` an aware datetime. While a
    job with the ``unique_key`` is unfinished, another is not added. ``key`` is the job's own
    concurrency key. It starts when the jobs of ``after`` (ids, or what enqueue() returned) have
    ended; where one was discarded or cancelled it is cancelled too, unless ``after_failed``.
    ``batch`` is the batch that a job of that batch adds it to: ``current_job().job.batch``.
    ``tags`` take the place of the task's own.
    """

    queue: str | None
    priority: int | None
    run_at: datetime | None
    delay: Duration | None
    unique_key: str | None
    max_attempts: int | None
    key: str | None
    tenant: str | None
    unique: Unique | None
    batch: int | None
    after: int | Enqueued | Sequence[int | Enqueued] | None
    after_failed: bool | None
    tags: Sequence[str] | None


class TaskOptions(TypedDict, total=False):
    """How a task is performed.

    ``name`` defaults to the function's. Lower ``priority`` runs first. After ``max_attempts``
    failed attempts a job is discarded. ``backoff`` is the delay between attempts: seconds, a list
    whose last element repeats, or a :class:`Backoff`. An attempt that lasts longer than ``timeout``
    has failed. With ``run_in="process"`` a blocking handler, which must be a global of a module,
    runs in a process of its own: on a core of its own, and killed when its time is up.

    A job that fails with an error of ``discard_on``, or with one that is not of ``retry_on`` where
    that is given, is discarded at once; ``retry(error, attempt)`` returns the delay for the others
    (seconds or a :class:`Backoff`; None discards). It is not tried again when that would be more
    than ``retry_until`` (seconds) after its first attempt began, or once ``max_exceptions``
    attempts have failed: those that ended with their worker's death count for ``max_attempts``
    only. ``on_discard(job, error)``, blocking or coroutine, is called when a failure, the death of
    its worker, or somebody by hand has the job discarded.

    ``key`` is the concurrency key of a job: a function of its arguments' dict, or a text in which
    ``{name}`` stands for an argument. Over all workers at most ``max_running_per_key`` jobs of one
    key run at once; ``ordered`` ones run one by one, each after the end of the one before. Within a
    queue the jobs of each ``tenant`` (given as ``key`` is) have their turn. With
    ``unique`` (True: by all arguments) a second job is not added while there is one.

    With ``encrypt`` only processes that have a key of ``PGSYNC_ARGS_KEYS`` can read the arguments.
    ``tags`` are words to find its jobs by, readable by all.
    """

    name: str | None
    queue: str
    priority: int
    max_attempts: int
    backoff: Backoff | Duration | Sequence[Duration] | None
    timeout: Duration | None
    run_in: Literal["process"] | None
    retry_on: Errors | None
    discard_on: Errors | None
    retry: Callable[[BaseException, int], Backoff | Duration | None] | None
    retry_until: Duration | None
    max_exceptions: int | None
    on_discard: Callable[[Job, BaseException], Any] | None
    key: str | Callable[[dict[str, Any]], str] | None
    tenant: str | Callable[[dict[str, Any]], str] | None
    max_running_per_key: int | None
    ordered: bool
    unique: Unique | bool | None
    encrypt: bool
    tags: Sequence[str]


def job_options(options: Mapping[str, Any]) -> JobOptions:
    """Those of a declaration's options that become its jobs'."""
    given = {name: options[name] for name in _JOB_OPTIONS if name in options}
    key, most = options.get("key"), options.get("max_running_per_key")
    ordered, unique = options.get("ordered", False), options.get("unique")
    if key is None and (most is not None or ordered):
        raise InvalidArgument("max_running_per_key and ordered need a key")
    if most is not None and (not isinstance(most, int) or most < 1 or (ordered and most > 1)):
        raise InvalidArgument(
            f"max_running_per_key must be 1 or more, and 1 where jobs run in order; not {most!r}"
        )
    if isinstance(key, str):
        key = NameTemplate(key, None, "the key").fill
    tenant = options.get("tenant")
    if isinstance(tenant, str):
        tenant = NameTemplate(tenant, None, "the tenant").fill
    return JobOptions(
        **given,
        key=key,
        tenant=tenant,
        key_limit=most,
        ordered=ordered,
        unique=unique_from(unique),
        encrypt=options.get("encrypt", False),
        tags=check_tags(options.get("tags", ())),
    )
