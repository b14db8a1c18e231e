"""The backend: a task is enqueued on Django's own connection, in the transaction it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone
from django.utils.module_loading import import_string
from psycopg.conninfo import make_conninfo

from pgsync.database.pool import execute
from pgsync.doors.django import framework
from pgsync.doors.packed import PackedJob, find_packed, job_number, packed
from pgsync.queues import Backoff, CancelJob, JobOptions, TaskOptions, backoff_from
from pgsync.queues.calls import add_job

__all__ = ["Task", "TaskBackend"]

_OPTIONS = {"database", "max_attempts", "backoff", "timeout"}
_NO_LIBPQ = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
_STATUS = {
    "running": framework.TaskResultStatus.RUNNING,
    "completed": framework.TaskResultStatus.SUCCESSFUL,
    "discarded": framework.TaskResultStatus.FAILED,
    "cancelled": framework.TaskResultStatus.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(framework.Task):
    """A task with what pgsync adds: ``@task(max_attempts=3, backoff=[5, 60], timeout=30)``.

    What is None is as the backend's ``OPTIONS`` say; times are in seconds.
    """

    max_attempts: int | None = None
    backoff: Backoff | float | Sequence[float] | None = None
    timeout: float | None = None


class TaskBackend(framework.BaseTaskBackend):
    """Django's tasks as jobs of pgsync.

    ``OPTIONS``: ``database`` is the alias of Django's database that has the schema ``pgsync``
    (``default``). ``max_attempts`` (5), ``backoff`` and ``timeout`` are those of the tasks that say
    nothing else. A higher priority runs first, as Django has it: it is the job's, negated.
    """

    task_class = Task
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        if unknown := set(self.options) - _OPTIONS:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]: OPTIONS takes {', '.join(sorted(_OPTIONS))}; not "
                f"{', '.join(sorted(unknown))}"
            )
        self.database: str = self.options.get("database", "default")

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Add a job in Django's transaction (``transaction.atomic``), or on its own without one."""
        self.validate_task(task)
        run_at = task.run_after
        if run_at is not None and timezone.is_naive(run_at):
            run_at = timezone.make_aware(run_at)
        content = framework.normalize_json(packed(args, kwargs))
        options = JobOptions(
            queue=task.queue_name,
            priority=-task.priority,
            run_at=run_at,
            max_attempts=self.task_options(task)["max_attempts"],
        )
        added = execute(self._connection(), add_job(task.module_path, content, options))
        result = self._new_result(
            task,
            id=str(added.id),
            status=framework.TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            args=content["args"],
            kwargs=content["kwargs"],
        )
        framework.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """The result of the job of that number, as Django's transaction sees it."""
        number = job_number(result_id)
        found = [] if number is None else execute(self._connection(), find_packed(number))
        if not found:
            raise framework.TaskResultDoesNotExist(result_id)
        return self.result_of(found[0])

    def result_of(self, job: PackedJob) -> Any:
        """A job as Django's ``TaskResult``."""
        task = import_string(job.task)
        errors = [_error(each) for each in job.errors]
        started = [datetime.fromisoformat(each["started_at"]) for each in job.errors]
        workers = [str(each["worker"]) for each in job.errors]
        if job.state in ("running", "completed") and job.started_at is not None:
            started.append(job.started_at)
            workers.append(str(job.worker))
        if job.state == "cancelled":
            reason = (job.result or {}).get("reason") or "cancelled"
            path = f"{CancelJob.__module__}.{CancelJob.__qualname__}"
            errors.append(framework.TaskError(exception_class_path=path, traceback=reason))
        content = job.args or {}
        result = self._new_result(
            task.using(priority=-job.priority, queue_name=job.queue, backend=self.alias),
            id=str(job.id),
            status=_STATUS.get(job.state, framework.TaskResultStatus.READY),
            enqueued_at=job.created_at,
            started_at=started[0] if started else None,
            last_attempted_at=started[-1] if started else None,
            finished_at=job.finished_at,
            args=content.get("args", []),
            kwargs=content.get("kwargs", {}),
            errors=errors,
            worker_ids=workers,
        )
        if job.state == "completed":
            object.__setattr__(result, "_return_value", job.result)
        return result

    def dsn(self) -> str:
        """The DSN of Django's database, for connections of pgsync's own."""
        given = self._wrapper().get_connection_params().items()
        return make_conninfo(**{name: value for name, value in given if name not in _NO_LIBPQ})

    def task_options(self, task: Task) -> TaskOptions:
        """How a task is performed."""

        def chosen(name: str, usual: Any = None) -> Any:
            own = getattr(task, name, None)
            return self.options.get(name, usual) if own is None else own

        return TaskOptions(
            max_attempts=chosen("max_attempts", 5),
            backoff=backoff_from(chosen("backoff")),
            timeout=chosen("timeout"),
        )

    def _new_result(self, task: Task, **fields: Any) -> Any:
        nothing = {"started_at": None, "finished_at": None, "last_attempted_at": None}
        lists: dict[str, Any] = {"errors": [], "worker_ids": []}
        return framework.TaskResult(task=task, backend=self.alias, **{**nothing, **lists, **fields})

    def _wrapper(self) -> Any:
        return connections[self.database]

    def _connection(self) -> psycopg.Connection[Any]:
        wrapper = self._wrapper()
        wrapper.ensure_connection()
        if not isinstance(wrapper.connection, psycopg.Connection):
            raise ImproperlyConfigured(
                f"TASKS[{self.alias!r}]: the database {self.database!r} is not PostgreSQL by "
                "psycopg 3; name the alias of one in OPTIONS['database']"
            )
        return wrapper.connection


def _error(error: Mapping[str, Any]) -> Any:
    text = error.get("traceback") or error.get("error") or ""
    path = error.get("type") or "pgsync.errors.PgsyncError"
    return framework.TaskError(exception_class_path=path, traceback=text)
