"""Tasks: functions that jobs name, declared once and enqueued from either face."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, Generic, ParamSpec, TypeVar, Unpack

from pgsync.durations import to_timedelta
from pgsync.errors import InvalidArgument, UnknownTask
from pgsync.queues.calls import Enqueued, JobOptions
from pgsync.queues.carried import carrying, check_tags, without_carried
from pgsync.queues.enqueuer import AsyncEnqueuer, Enqueuer
from pgsync.queues.job import Job
from pgsync.queues.middleware import AroundEnqueue, BeforeEnqueue, Middleware, check_middleware
from pgsync.queues.options import JobChanges, TaskOptions, job_options
from pgsync.queues.parameters import Parameters
from pgsync.queues.retry import RetryPolicy, backoff_from, errors_from
from pgsync.queues.together import NewJob, job_ids
from pgsync.queues.unique import unique_from

__all__ = ["AsyncTask", "Task", "TaskDeclaration", "TaskRegistry", "unknown_task"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Middleware)
E = TypeVar("E", bound=Callable[[NewJob], NewJob])

_CHECKED_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class TaskDeclaration:
    """What a worker needs to perform a task, and a caller to enqueue it."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    options: JobOptions
    timeout: timedelta | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    on_discard: Callable[[Job, BaseException], Any] | None = None
    carries: Mapping[str, str] = field(default_factory=dict)
    """What its jobs carry beside their arguments."""
    in_process: bool = False
    """Whether the handler runs in a process of its own."""
    is_async: bool = field(init=False)
    """Whether the handler is a coroutine function."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))

    @classmethod
    def of(cls, function: Callable[..., Any], options: TaskOptions) -> TaskDeclaration:
        """The declaration of a function with these options."""
        name = options.get("name") or function.__name__
        if not isinstance(name, str):
            raise InvalidArgument(f"a task's name must be text, not {name!r}")
        backoff = backoff_from(options.get("backoff"))
        given = options.get("timeout")
        timeout = None if given is None else to_timedelta(given, "timeout")
        until, most = options.get("retry_until"), options.get("max_exceptions")
        if most is not None and (not isinstance(most, int) or most < 1):
            raise InvalidArgument(f"max_exceptions must be 1 or more, not {most!r}")
        policy = RetryPolicy(
            backoff,
            errors_from(options.get("retry_on"), "retry_on"),
            errors_from(options.get("discard_on"), "discard_on") or (),
            options.get("retry"),
            None if until is None else to_timedelta(until, "retry_until"),
            most,
        )
        on_discard = options.get("on_discard")
        for option, function_given in (("retry", policy.choose), ("on_discard", on_discard)):
            if function_given is not None and not callable(function_given):
                raise InvalidArgument(f"{option} must be a function, not {function_given!r}")
        job = job_options(options)
        if job.encrypt and job.unique:
            raise InvalidArgument(
                f"task {name!r}: encrypted arguments cannot be compared; pass unique_key instead"
            )
        parameters = Parameters.of(function)
        for argument in (job.unique and job.unique.by) or ():
            if argument not in parameters.signature.parameters:
                raise InvalidArgument(
                    f"task {name!r} takes no argument {argument!r} to be unique by"
                )
        in_process = _in_process(name, function, options.get("run_in"))
        return cls(
            name, function, parameters, job, timeout, policy, on_discard, in_process=in_process
        )

    def prepared(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a job, checked, with what its jobs carry."""
        return carrying(self.check(args), self.carries)

    def prepared_each(self, many_args: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """As :meth:`prepared`, of many jobs: those with the same names are checked once."""
        source = iter(many_args)
        parts = iter(lambda: list(islice(source, _CHECKED_AT_ONCE)), [])
        return chain.from_iterable(map(self._prepared_part, parts))

    def _prepared_part(self, many_args: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self.carries and set(map(type, many_args)) == {dict}:
            with suppress(TypeError):
                for names in set(map(tuple, many_args)):
                    self.parameters.check(dict.fromkeys(names))
                return many_args
        return list(map(self.prepared, many_args))

    def check(self, args: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments if the handler can be called with them.

        Raises:
            InvalidArgument: if one is missing or unknown, or they are no dict.
        """
        if not isinstance(args, dict):
            raise InvalidArgument(f"the arguments of {self.name!r} must be a dict, not {args!r}")
        try:
            self.parameters.check(args)
        except TypeError as error:
            raise InvalidArgument(f"task {self.name!r}: {error}") from None
        return args


def _in_process(name: str, function: Callable[..., Any], run_in: str | None) -> bool:
    if run_in not in (None, "process"):
        raise InvalidArgument(f"task {name!r}: run_in must be 'process' or None, not {run_in!r}")
    if run_in is None:
        return False
    if inspect.iscoroutinefunction(function):
        raise InvalidArgument(f"task {name!r}: a coroutine handler cannot run in a process")
    if "<" in getattr(function, "__qualname__", "<"):
        raise InvalidArgument(
            f"task {name!r} cannot run in a process, which has to import its handler: "
            "define it with def at the top of a module"
        )
    return True


class TaskRegistry:
    """The tasks that a process has declared, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskDeclaration] = {}
        self.middleware: list[Middleware] = []
        """What is around each handler, the first outermost."""
        self.before_enqueue = BeforeEnqueue(self._check)
        self.around_enqueue = AroundEnqueue()

    def __iter__(self) -> Iterator[TaskDeclaration]:
        return iter(self._tasks.values())

    def add(self, task: TaskDeclaration) -> None:
        """Declare a task.

        Raises:
            InvalidArgument: if another function has the name, or a parameter is called ``within``.
        """
        if task.name in self._tasks:
            raise InvalidArgument(f"a task named {task.name!r} is declared already; pass name=")
        if "within" in task.parameters.signature.parameters:
            raise InvalidArgument(
                f"task {task.name!r} has a parameter named 'within', which enqueue() takes for the "
                "caller's transaction; rename it"
            )
        self._tasks[task.name] = task

    def use(self, middleware: M) -> M:
        """Put a function around the handlers of its kind, inside those that were put before.

        A blocking ``middleware(job, call)`` is around blocking handlers, a coroutine function
        around coroutine handlers. Usable as a decorator.

        Raises:
            InvalidArgument: if it does not take a job and the call.
        """
        self.middleware.append(check_middleware(middleware))
        return middleware

    def use_enqueue(self, middleware: E) -> E:
        """Have a function see each job before it is enqueued, after those that were put before.

        ``middleware(job)`` returns the :class:`NewJob` or another one in its place, or raises to
        refuse it. It is the same on both faces, and must not block. Usable as a decorator.

        Raises:
            InvalidArgument: if it does not take one job, or is a coroutine function.
        """
        self.before_enqueue.add(middleware)
        return middleware

    def _check(self, job: NewJob) -> None:
        declaration = self._tasks.get(job.task)
        if declaration is not None:
            declaration.check(without_carried(job.args))

    def find(self, name: str) -> TaskDeclaration:
        """The task of that name.

        Raises:
            UnknownTask: if this process has not declared it.
        """
        task = self._tasks.get(name)
        if task is None:
            raise unknown_task(name)
        return task


def unknown_task(name: str) -> UnknownTask:
    """What a job of a task that this process has not declared fails with."""
    return UnknownTask(
        f"no task named {name!r} is declared in this process; import the module that declares it,"
        " or give the worker other queues"
    )


class _TaskFace(Generic[P, R]):
    def __init__(self, declaration: TaskDeclaration) -> None:
        self.declaration = declaration
        self.__doc__ = declaration.function.__doc__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} on queue {self.declaration.options.queue!r}>"

    @property
    def name(self) -> str:
        """The name that jobs call it by."""
        return self.declaration.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now."""
        result: R = self.declaration.function(*args, **kwargs)
        return result

    def _with(self, changes: JobChanges) -> TaskDeclaration:
        given: dict[str, Any] = {
            name: value for name, value in changes.items() if value is not None
        }
        run_at: datetime | None = given.get("run_at")
        if run_at is not None and "delay" in given:
            raise InvalidArgument("give run_at or delay, not both")
        if run_at is not None and (not isinstance(run_at, datetime) or run_at.tzinfo is None):
            raise InvalidArgument(
                "run_at must be a datetime with a time zone, for example datetime.now(UTC)"
            )
        for name in ("queue", "unique_key", "key", "tenant"):
            if not isinstance(given.get(name, ""), str):
                raise InvalidArgument(f"{name} must be text, not {given[name]!r}")
        for name in ("priority", "max_attempts"):
            if not isinstance(given.get(name, 0), int):
                raise InvalidArgument(f"{name} must be a whole number, not {given[name]!r}")
        if "unique" in given:
            given["unique"] = unique_from(given["unique"])
        if given.get("unique") and self.declaration.options.encrypt:
            raise InvalidArgument("encrypted arguments cannot be compared; pass unique_key instead")
        if "after" in given:
            given["after"] = job_ids(given["after"])
        if "tags" in given:
            given["tags"] = check_tags(given["tags"])
        if "delay" in given:
            given["delay"] = to_timedelta(given["delay"], "delay", zero=True)
        return replace(self.declaration, options=replace(self.declaration.options, **given))

    def job(self, **args: Any) -> NewJob:
        """A job with these arguments, not enqueued yet: for a batch or a chain.

        Raises:
            InvalidArgument: if the handler does not take these arguments.
        """
        return self._job(args)

    def _job(self, args: dict[str, Any]) -> NewJob:
        declaration = self.declaration
        return NewJob(declaration.name, declaration.prepared(args), declaration.options)

    def _alike(
        self, many_args: Iterable[dict[str, Any]]
    ) -> tuple[str, Iterator[dict[str, Any]], JobOptions]:
        declaration = self.declaration
        if declaration.options.unique_key is not None or declaration.options.unique is not None:
            raise InvalidArgument(
                "enqueue_many takes no unique_key and no unique: enqueue those jobs one by one"
            )
        if not isinstance(many_args, Iterable):
            raise InvalidArgument(
                f"enqueue_many takes an iterable of dicts of arguments, not {many_args!r}"
            )
        return declaration.name, declaration.prepared_each(many_args), declaration.options


class Task(_TaskFace[P, R]):
    """A declared task. Call it to run the function here; enqueue it to have a worker run it."""

    def __init__(self, declaration: TaskDeclaration, enqueuer: Enqueuer) -> None:
        super().__init__(declaration)
        self._enqueuer = enqueuer

    def options(self, **changes: Unpack[JobChanges]) -> Task[P, R]:
        """The same task with other options: ``send.options(delay=60).enqueue(campaign_id=3)``."""
        return Task(self._with(changes), self._enqueuer)

    def enqueue(self, *, within: Any = None, **args: Any) -> Enqueued:
        """Add a job with these arguments; it is committed when this returns.

        What several threads enqueue at the same time is committed together. With ``within``, a
        psycopg or SQLAlchemy connection or session, the job is part of that transaction: it exists
        when the transaction commits, and not otherwise.

        Raises:
            InvalidArgument: if the handler does not take these arguments, or JSON cannot say them.
            ConnectionFailed: if no connection can be had in 30 seconds.
            OutcomeUnknown: if the connection breaks before the answer, and asking again on others
                for 30 seconds brings none. Jobs with an option beyond queue, priority,
                max_attempts, delay, run_at and tags are not asked for again.
        """
        return self._enqueuer.add(self._job(args), within)

    def enqueue_many(self, many_args: Iterable[dict[str, Any]], *, within: Any = None) -> list[int]:
        """Add a job for each dict of arguments, all in one transaction; returns their ids."""
        ids: list[int] = self._enqueuer.add_alike(*self._alike(many_args), within)
        return ids


class AsyncTask(_TaskFace[P, R]):
    """A declared task of an AsyncCoordinator; as :class:`Task`, awaited."""

    def __init__(self, declaration: TaskDeclaration, enqueuer: AsyncEnqueuer) -> None:
        super().__init__(declaration)
        self._enqueuer = enqueuer

    def options(self, **changes: Unpack[JobChanges]) -> AsyncTask[P, R]:
        """As :meth:`Task.options`."""
        return AsyncTask(self._with(changes), self._enqueuer)

    async def enqueue(self, *, within: Any = None, **args: Any) -> Enqueued:
        """As :meth:`Task.enqueue`."""
        return await self._enqueuer.add(self._job(args), within)

    async def enqueue_many(
        self, many_args: Iterable[dict[str, Any]], *, within: Any = None
    ) -> list[int]:
        """As :meth:`Task.enqueue_many`."""
        ids: list[int] = await self._enqueuer.add_alike(*self._alike(many_args), within)
        return ids
