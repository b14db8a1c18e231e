"""The operation as a caller holds it: run it here, or enqueue it for a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar, Unpack

from pgsync.database.calls import first
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import OperationBlocked, RateLimited
from pgsync.locks import LockKeeper, default_owner
from pgsync.operations.calls import OperationState, operation_status
from pgsync.operations.declaration import OperationDeclaration, Release
from pgsync.operations.failure import FailureCallbacks, OperationFailure
from pgsync.operations.run import AsyncOperationRun, OperationRun, Request, perform_plan
from pgsync.queues import (
    AsyncEnqueuer,
    AsyncTask,
    CancelJob,
    Enqueued,
    Enqueuer,
    Job,
    JobChanges,
    JobOptions,
    Parameters,
    ReleaseJob,
    Task,
    TaskDeclaration,
    TaskRegistry,
    current_job,
)
from pgsync.queues.carried import carried
from pgsync.queues.retry import RetryPolicy
from pgsync.queues.sealing import open_all, open_args

__all__ = ["AsyncOperation", "Operation"]

_ACTOR = "pgsync-actor"
"""Under this header a job carries who had it enqueued."""

D = TypeVar("D", Database, AsyncDatabase)
E = TypeVar("E", Enqueuer, AsyncEnqueuer)


class _OperationFace(ABC, Generic[D, E]):
    _task: Task[..., Any] | AsyncTask[..., Any]

    def __init__(
        self,
        declaration: OperationDeclaration,
        options: JobOptions,
        database: D,
        enqueuer: E,
        keeper: LockKeeper,
        failures: FailureCallbacks,
        actor: str | None = None,
    ) -> None:
        self.declaration = declaration
        self._database: D = database
        self._enqueuer: E = enqueuer
        self._keeper = keeper
        self._failures = failures
        self._actor = actor
        self._task = self._new_task(options)
        self.__doc__ = declaration.function.__doc__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} under {self.declaration.lock!r}>"

    @property
    def name(self) -> str:
        """The operation's name, which is its task's name too."""
        return self.declaration.name

    def key(self, **args: Any) -> str:
        """The lock's name for these arguments, of which only those that it uses are needed."""
        return self.declaration.key(args)

    def register(self, tasks: TaskRegistry) -> None:
        """Let this process's workers perform it."""
        tasks.add(self._task.declaration)

    def by(self, actor: str) -> Self:
        """The same operation on behalf of ``actor``, which its history names."""
        return type(self)(
            self.declaration,
            self._task.declaration.options,
            self._database,
            self._enqueuer,
            self._keeper,
            self._failures,
            actor,
        )

    @abstractmethod
    def _new_task(self, options: JobOptions) -> Task[..., Any] | AsyncTask[..., Any]:
        """The task that performs it from a queue."""

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        bound = self.declaration.bind(args, kwargs)
        actor = self._actor or default_owner()
        return Request(self.declaration, bound, actor, failures=self._failures)

    def _queued_request(self, kwargs: dict[str, Any]) -> Request:
        context = current_job()
        args = self.declaration.bind((), kwargs)
        if context is None:
            return Request(self.declaration, args, default_owner(), failures=self._failures)
        return Request(
            self.declaration, args, _actor_of(context.job), context.id, context.job.lock_token
        )

    def _failure(self, job: Job, error: BaseException) -> OperationFailure:
        """What a discarded job is told of as."""
        args = open_args(job.args)
        return OperationFailure(
            self.name,
            self.declaration.key(args),
            args,
            _actor_of(job),
            error,
            job.id,
            job.attempt,
        )

    def _answer_for_queue(self, error: OperationBlocked | RateLimited) -> Exception:
        """Neither a held lock nor a full limiter may spend a job's attempt."""
        if isinstance(error, RateLimited):
            return ReleaseJob(error.retry_after, str(error))
        if isinstance(self.declaration.blocked, Release):
            return ReleaseJob(self.declaration.blocked.after, str(error))
        return CancelJob(str(error))

    def _task_declaration(
        self, function: Any, options: JobOptions, on_discard: Callable[[Job, BaseException], Any]
    ) -> TaskDeclaration:
        if isinstance(self.declaration.blocked, Release):
            # What waits for its lock is not claimed without; what is refused is claimed to be told.
            options = replace(options, lock=self.declaration.key)
        policy = RetryPolicy(self.declaration.backoff)
        return TaskDeclaration(
            self.name,
            function,
            Parameters.of(function),
            options,
            policy=policy,
            on_discard=on_discard,
            carries={} if self._actor is None else {_ACTOR: self._actor},
        )


def _actor_of(job: Job) -> str:
    """Who had the job enqueued, where that was said, or else who performs it."""
    return carried(open_all(job.args)).get(_ACTOR) or f"{default_owner()} job {job.id}"


class Operation(_OperationFace[Database, Enqueuer]):
    """A declared operation of a Coordinator."""

    _task: Task[..., Any]

    def _new_task(self, options: JobOptions) -> Task[..., Any]:
        return Task(self._task_declaration(self._perform, options, self._discarded), self._enqueuer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now, and return what its handler returns.

        Raises:
            OperationBlocked: with its own message, if its lock is held.
            RateLimited: if its limit is used up.
        """
        return self._drive(self._request(args, kwargs))

    def enqueue(self, *, within: Any = None, **kwargs: Any) -> Enqueued:
        """Have a worker run it; as :meth:`Task.enqueue`."""
        return self._task.enqueue(within=within, **self.declaration.bind((), kwargs))

    def options(self, **changes: Unpack[JobChanges]) -> Task[..., Any]:
        """Its task with other options: ``template_sync.options(priority=-1).enqueue(...)``."""
        return self._task.options(**changes)

    def status(self, **args: Any) -> OperationState | None:
        """The run that goes on for these arguments, or else the last; None where there was none."""
        return first(self._database.run(operation_status(self.name, self.key(**args))))

    def _perform(self, **kwargs: Any) -> Any:
        try:
            return self._drive(self._queued_request(kwargs))
        except (OperationBlocked, RateLimited) as error:
            raise self._answer_for_queue(error) from error

    def _discarded(self, job: Job, error: BaseException) -> None:
        self._failures.tell(self._failure(job, error))

    def _drive(self, request: Request) -> Any:
        run = self._database.run
        plan = perform_plan(request, self._keeper, lambda state: OperationRun(state, run))
        return self._database.drive(plan)


class AsyncOperation(_OperationFace[AsyncDatabase, AsyncEnqueuer]):
    """A declared operation of an AsyncCoordinator; as :class:`Operation`, awaited."""

    _task: AsyncTask[..., Any]

    def _new_task(self, options: JobOptions) -> AsyncTask[..., Any]:
        return AsyncTask(
            self._task_declaration(self._perform, options, self._discarded), self._enqueuer
        )

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`Operation.__call__`."""
        return await self._drive(self._request(args, kwargs))

    async def enqueue(self, *, within: Any = None, **kwargs: Any) -> Enqueued:
        """As :meth:`Operation.enqueue`."""
        return await self._task.enqueue(within=within, **self.declaration.bind((), kwargs))

    def options(self, **changes: Unpack[JobChanges]) -> AsyncTask[..., Any]:
        """As :meth:`Operation.options`."""
        return self._task.options(**changes)

    async def status(self, **args: Any) -> OperationState | None:
        """As :meth:`Operation.status`."""
        return first(await self._database.run(operation_status(self.name, self.key(**args))))

    async def _perform(self, **kwargs: Any) -> Any:
        try:
            return await self._drive(self._queued_request(kwargs))
        except (OperationBlocked, RateLimited) as error:
            raise self._answer_for_queue(error) from error

    async def _discarded(self, job: Job, error: BaseException) -> None:
        await self._failures.tell_async(self._failure(job, error))

    async def _drive(self, request: Request) -> Any:
        run = self._database.run
        plan = perform_plan(request, self._keeper, lambda state: AsyncOperationRun(state, run))
        return await self._database.drive(plan)
