"""The worker's side: tasks are found by their path, and performed as Django has them performed."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import django
from django.db import close_old_connections
from django.utils import timezone
from django.utils.module_loading import import_string

from pgsync.coordinator import Coordinator
from pgsync.doors.django import framework
from pgsync.doors.django.backend import Task, TaskBackend
from pgsync.doors.packed import PackedJob
from pgsync.errors import InvalidArgument, UnknownTask
from pgsync.queues import Job, JobContext, TaskDeclaration, TaskRegistry, current_job

__all__ = ["DjangoTasks", "worker"]


def worker(alias: str = "default") -> Coordinator:
    """A coordinator that performs the tasks of the backend ``alias``.

    ``pgsync worker --app pgsync.doors.django:worker`` does so from the command line, where
    ``DJANGO_SETTINGS_MODULE`` names the settings.

    Raises:
        InvalidArgument: if that backend is none of pgsync's.
    """
    django.setup()
    backend = framework.task_backends[alias]
    if not isinstance(backend, TaskBackend):
        raise InvalidArgument(
            f"TASKS[{alias!r}] has the backend {type(backend).__name__}; pgsync performs those of "
            "pgsync.doors.django.TaskBackend"
        )
    sync = Coordinator(backend.dsn())
    sync.tasks = DjangoTasks(backend)
    return sync


class DjangoTasks(TaskRegistry):
    """Django's tasks by the path of their function; each is imported when a job names it."""

    def __init__(self, backend: TaskBackend) -> None:
        super().__init__()
        self._backend = backend

    def find(self, name: str) -> TaskDeclaration:
        """As :meth:`TaskRegistry.find`."""
        if name not in self._tasks:
            self.add(self._declare(name))
        return super().find(name)

    def _declare(self, path: str) -> TaskDeclaration:
        try:
            task = import_string(path)
        except ImportError:
            task = None
        # Nothing else that a row may name is called.
        if not isinstance(task, framework.Task):
            raise UnknownTask(f"{path} is no task of Django; declare it with @task in that module")
        perform = _awaited if inspect.iscoroutinefunction(task.func) else _blocking
        options = self._backend.task_options(task)
        options |= {"name": path, "on_discard": functools.partial(_discarded, self._backend)}
        return TaskDeclaration.of(perform(self._backend, task), options)


def _blocking(backend: TaskBackend, task: Task) -> Callable[..., Any]:
    def perform(**content: Any) -> Any:
        result = _started(backend, content)
        value = task.func(*_call_args(task, result), **result.kwargs)
        return _succeeded(backend, result, value)

    return functools.partial(_tidily, perform)


def _awaited(backend: TaskBackend, task: Task) -> Callable[..., Any]:
    async def perform(**content: Any) -> Any:
        result = await asyncio.to_thread(_tidily, _started, backend, content)
        value = await task.func(*_call_args(task, result), **result.kwargs)
        return await asyncio.to_thread(_tidily, _succeeded, backend, result, value)

    return perform


def _tidily(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function as Django handles a request: without connections that broke or are old."""
    close_old_connections()
    try:
        return function(*args, **kwargs)
    finally:
        close_old_connections()


def _call_args(task: Task, result: Any) -> list[Any]:
    context = [framework.TaskContext(task_result=result)] if task.takes_context else []
    return [*context, *result.args]


def _started(backend: TaskBackend, content: dict[str, Any]) -> Any:
    context = current_job()
    assert context is not None
    if context.attempt == 1:
        result = backend.result_of(_running(context, content))
    else:
        result = backend.get_result(str(context.id))  # with the errors of the attempts before
    framework.task_started.send(type(backend), task_result=result)
    return result


def _running(context: JobContext, content: dict[str, Any]) -> PackedJob:
    job = context.job
    return PackedJob(
        job.id,
        job.task,
        job.queue,
        "running",
        job.priority,
        job.attempt,
        job.created_at,
        worker=context.worker,
        started_at=timezone.now(),
        args=content,
    )


def _succeeded(backend: TaskBackend, result: Any, value: Any) -> Any:
    value = framework.normalize_json(value)
    object.__setattr__(result, "status", framework.TaskResultStatus.SUCCESSFUL)
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "_return_value", value)
    framework.task_finished.send(type(backend), task_result=result)
    return value


def _discarded(backend: TaskBackend, job: Job, _error: BaseException) -> None:
    result = _tidily(backend.get_result, str(job.id))
    _tidily(framework.task_finished.send, type(backend), task_result=result)
