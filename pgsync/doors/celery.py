"""Tasks in Celery's manner on pgsync's queues: ``delay``, ``apply_async``, ``self.retry``.

The names and what they do are Celery's; nothing of Celery is imported, and there is no broker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, overload

from pgsync.coordinator import Coordinator
from pgsync.doors.packed import packed
from pgsync.doors.results import AsyncResult, TaskFailed
from pgsync.durations import to_timedelta
from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.pauses import spread
from pgsync.queues import (
    Backoff,
    CancelJob,
    JobChanges,
    JobContext,
    TaskOptions,
    current_job,
)
from pgsync.queues import Task as PgsyncTask

__all__ = [
    "App",
    "AsyncResult",
    "MaxRetriesExceededError",
    "Retry",
    "Task",
    "TaskFailed",
    "shared_task",
]

Errors = tuple[type[BaseException], ...]
_MOST_ATTEMPTS = 32_767


class Retry(Exception):
    """Raised by ``self.retry``: this attempt has failed, and another is to come."""

    def __init__(self, delay: float, reason: BaseException | None) -> None:
        self.delay = delay
        super().__init__(str(reason) if reason is not None else f"again in {delay:g} s")


class MaxRetriesExceededError(PgsyncError):
    """``self.retry`` was called without an error, and no retry is left."""


class App:
    """What ``Celery(...)`` is there: the tasks of a coordinator, declared in Celery's manner.

    The last one that was made performs and enqueues what :func:`shared_task` declares. Work with
    ``coordinator.run_worker(queues=["celery"])``, or ``pgsync worker --queue celery``.
    """

    current: App | None = None

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.tasks: dict[str, Task] = {}
        App.current = self
        for task in _shared:
            self._add(task)

    @overload
    def task(self, function: Callable[..., Any], /) -> Task: ...
    @overload
    def task(self, /, **options: Any) -> Callable[[Callable[..., Any]], Task]: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Declare a task; the options are those of :class:`Task`."""

        def declare(function: Callable[..., Any]) -> Task:
            task = Task(function, self, **options)
            self._add(task)
            return task

        return declare if function is None else declare(function)

    def result(self, id: str) -> AsyncResult:
        """The result of the task with that id."""
        return AsyncResult(id, self.coordinator)

    AsyncResult = result

    def _add(self, task: Task) -> None:
        self.coordinator.task(**task.declared())(task.perform)
        self.tasks[task.name] = task


_shared: list[Task] = []


@overload
def shared_task(function: Callable[..., Any], /) -> Task: ...
@overload
def shared_task(**options: Any) -> Callable[[Callable[..., Any]], Task]: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Declare a task for whichever :class:`App` there is, or will be."""

    def declare(function: Callable[..., Any]) -> Task:
        task = Task(function, None, **options)
        _shared.append(task)
        if App.current is not None:
            App.current._add(task)
        return task

    return declare if function is None else declare(function)


class Request:
    """What ``self.request`` knows of the attempt that runs."""

    def __init__(self, context: JobContext) -> None:
        self.id = str(context.id)
        self.retries = context.attempt - 1
        self.args: Sequence[Any] = context.job.args.get("args", [])
        self.kwargs: Mapping[str, Any] = context.job.args.get("kwargs", {})
        self.delivery_info = {"routing_key": context.job.queue, "priority": -context.job.priority}


class Task:
    """A task, called as Celery's are. Without ``name`` it is ``module.function``.

    With ``bind`` the function's first argument is the task. A failure is final unless the error is
    of ``autoretry_for`` (and not of ``dont_autoretry_for``) or :meth:`retry` raised it; then there
    are up to ``max_retries`` more attempts (3; None: without end), ``default_retry_delay`` seconds
    apart, or with ``retry_backoff`` (seconds; True is 1) each after twice the time, at most
    ``retry_backoff_max``, by ``retry_jitter`` anything from nothing to that. An attempt that lasts
    longer than ``time_limit`` seconds has failed. A higher ``priority`` runs first.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        app: App | None,
        *,
        name: str | None = None,
        bind: bool = False,
        queue: str = "celery",
        priority: int = 0,
        max_retries: int | None = 3,
        default_retry_delay: float = 180,
        autoretry_for: Sequence[type[BaseException]] = (),
        dont_autoretry_for: Sequence[type[BaseException]] = (),
        retry_backoff: float | bool = False,
        retry_backoff_max: float = 600,
        retry_jitter: bool = True,
        time_limit: float | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(function):
            raise InvalidArgument(
                f"{function.__qualname__} is a coroutine function, which Celery's tasks are not; "
                "declare it with the coordinator's own task()"
            )
        self.run = function
        self._signature = inspect.signature(function)
        self.name = name or f"{function.__module__}.{function.__name__}"
        self.__doc__ = function.__doc__
        self.max_retries = max_retries
        self.default_retry_delay = default_retry_delay
        self._app = app
        self._bind = bind
        self._queue = queue
        self._priority = priority
        self._again = (tuple(autoretry_for), tuple(dont_autoretry_for))
        self._backoff = (float(retry_backoff), retry_backoff_max, retry_jitter)
        self._time_limit = time_limit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, here and now."""
        return self.run(self, *args, **kwargs) if self._bind else self.run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name!r} on queue {self._queue!r}>"

    @property
    def app(self) -> App:
        """The app that it belongs to.

        Raises:
            InvalidArgument: if it is a shared task, and there is no app yet.
        """
        app = self._app or App.current
        if app is None:
            raise InvalidArgument(f"task {self.name!r} has no app yet: make one, App(coordinator)")
        return app

    @property
    def request(self) -> Request:
        """The attempt that runs.

        Raises:
            InvalidArgument: outside of workers.
        """
        context = current_job()
        if context is None:
            raise InvalidArgument(f"task {self.name!r} does not run in a worker here")
        return Request(context)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Enqueue a call."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        within: Any = None,
    ) -> AsyncResult:
        """Enqueue a call, to start after ``countdown`` seconds or at ``eta``.

        If it has not started when it ``expires`` (seconds from now, or a datetime), it is revoked.
        With ``within``, a connection or session, it is part of that transaction.

        Raises:
            TypeError: if the function does not take these arguments.
            InvalidArgument: if JSON cannot say them, or a datetime has no time zone.
        """
        self._signature.bind(*([self] if self._bind else []), *args, **(kwargs or {}))
        content = packed(args, kwargs or {})
        if expires is not None:
            content["expires"] = _moment(expires).isoformat()
        changes = JobChanges(queue=queue, delay=countdown, run_at=eta)
        if priority is not None:
            changes["priority"] = -priority
        app = self.app
        declaration = app.coordinator.tasks.find(self.name)
        task: PgsyncTask[..., Any] = PgsyncTask(declaration, app.coordinator.enqueuer)
        task = task.options(**changes)
        return app.result(str(task.enqueue(within=within, **content).id))

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        throw: bool = True,
    ) -> Retry:
        """Have the call tried again after ``countdown`` seconds or at ``eta``; does not return.

        With ``throw=False`` it returns what is to be raised. Where no retry is left, ``exc`` is
        raised, or MaxRetriesExceededError.
        """
        retries = self.request.retries
        if self.max_retries is not None and retries >= self.max_retries:
            raise exc or MaxRetriesExceededError(
                f"task {self.name} was tried {retries + 1} times, as often as it may"
            )
        if eta is not None:
            countdown = max((_moment(eta) - datetime.now(UTC)).total_seconds(), 0)
        delay = self.default_retry_delay if countdown is None else countdown
        again = Retry(to_timedelta(delay, "countdown", zero=True).total_seconds(), exc)
        if throw:
            raise again from exc
        return again

    def declared(self) -> TaskOptions:
        """The task as pgsync declares it."""
        most = _MOST_ATTEMPTS if self.max_retries is None else self.max_retries + 1
        return TaskOptions(
            name=self.name,
            queue=self._queue,
            priority=-self._priority,
            max_attempts=most,
            timeout=self._time_limit,
            retry=self._delay_after,
        )

    @property
    def perform(self) -> Callable[..., Any]:
        """What workers call with a job's arguments."""
        return partial(_perform, self)

    def _delay_after(self, error: BaseException, attempt: int) -> float | None:
        again, final = self._again
        if isinstance(error, Retry):
            return error.delay
        if not isinstance(error, again) or isinstance(error, final):
            return None
        factor, longest, jitter = self._backoff
        if not factor:
            return self.default_retry_delay
        delay = Backoff((factor,), jitter=0, longest=longest).base(attempt)
        return spread(delay, 1.0) if jitter else delay


def _perform(
    task: Task,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    expires: str | None = None,
) -> Any:
    if expires is not None and datetime.fromisoformat(expires) <= datetime.now(UTC):
        raise CancelJob(f"expired at {expires}")
    return task(*args, **(kwargs or {}))


def _moment(given: float | datetime) -> datetime:
    if not isinstance(given, datetime):
        return datetime.now(UTC) + timedelta(seconds=given)
    if given.tzinfo is None:
        raise InvalidArgument("a time must have a zone, for example datetime.now(UTC)")
    return given
