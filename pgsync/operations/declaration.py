"""What an operation is: its lock, limit, queue, and what becomes of it when it is blocked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Required, TypedDict

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.limits import Decision, Limit
from pgsync.naming import NameTemplate
from pgsync.operations.failure import OnFailure
from pgsync.queues import Backoff, backoff_from

__all__ = ["OperationDeclaration", "OperationOptions", "Release"]


@dataclass(frozen=True, slots=True, init=False)
class Release:
    """When blocked, a queued run waits in its queue until the lock is free, attempt unspent.

    Where the lock was lost between its claim and its start it goes back for ``after`` seconds.

    Called directly there is no queue to go back to: the call is refused with ``message``.
    """

    after: timedelta
    message: str

    def __init__(self, after: Duration = 5, message: str = "") -> None:
        object.__setattr__(self, "after", to_timedelta(after, "after", zero=True))
        object.__setattr__(self, "message", message)


class OperationOptions(TypedDict, total=False):
    """How an operation runs.

    ``lock`` is a template over the handler's arguments, ``ttl`` in seconds. ``limit`` is drawn on
    by each run, and by ``op.permit()``. ``blocked`` is a message (a run that finds the lock held is
    refused with it) or a :class:`Release` (a queued run goes back to its queue). ``limited`` is
    what a run beyond the limit is refused with, a template over ``max``, ``per``, ``retry_after``.
    ``backoff`` is the delay between the attempts of a queued run, as for a task; ``tenant``,
    ``key`` and ``max_running_per_key`` share the workers out as a task's do. ``on_failure`` is
    called with an :class:`OperationFailure` when a run that was called directly fails, or a queued
    one is given up, be it that its last worker died.
    """

    lock: Required[str]
    ttl: Required[Duration]
    limit: Limit | Sequence[Limit] | None
    blocked: str | Release | None
    limited: str | None
    auto_renew: bool
    queue: str
    priority: int
    max_attempts: int
    backoff: Backoff | Duration | Sequence[Duration] | None
    key: str | Callable[[dict[str, Any]], str] | None
    tenant: str | Callable[[dict[str, Any]], str] | None
    max_running_per_key: int | None
    on_failure: OnFailure | None


@dataclass(frozen=True, slots=True)
class OperationDeclaration:
    """An operation as it was declared.

    ``lock`` is a template over the arguments, for example ``template_sync:connection:{id}``; the
    name that it makes is the operation's key. ``limited`` is a template too, over ``max``, ``per``
    and ``retry_after`` in seconds.
    """

    name: str
    function: Callable[..., Any]
    lock: str
    ttl: timedelta
    limits: tuple[Limit, ...]
    blocked: str | Release
    limited: str | None
    auto_renew: bool
    backoff: Backoff
    _template: NameTemplate = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(self.function).parameters)
        if not parameters:
            raise InvalidArgument(
                f"operation {self.name!r}: its handler takes the run as its first parameter (op)"
            )
        template = NameTemplate(self.lock, parameters[1:], f"operation {self.name!r}: its lock")
        object.__setattr__(self, "_template", template)

    @classmethod
    def of(
        cls, name: str, function: Callable[..., Any], options: OperationOptions
    ) -> OperationDeclaration:
        """The declaration of a handler with these options."""
        if missing := {"lock", "ttl"} - options.keys():
            raise InvalidArgument(
                f"operation {name!r} needs {' and '.join(sorted(missing))}: lock= is a name with"
                " the handler's arguments in braces, ttl= how many seconds the lock lasts"
            )
        limit = options.get("limit")
        return cls(
            name=name,
            function=function,
            lock=options["lock"],
            ttl=to_timedelta(options["ttl"], "ttl"),
            limits=() if not limit else (limit,) if isinstance(limit, Limit) else tuple(limit),
            blocked=options.get("blocked") or f"{name} is already in progress",
            limited=options.get("limited"),
            auto_renew=options.get("auto_renew", False),
            backoff=backoff_from(options.get("backoff")),
        )

    @property
    def blocked_message(self) -> str:
        """What a refused caller is told."""
        if isinstance(self.blocked, str):
            return self.blocked
        return self.blocked.message or f"{self.name} is already in progress"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults filled in.

        Raises:
            InvalidArgument: if the handler does not take them.
        """
        try:
            bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"operation {self.name!r}: {error}") from None
        bound.apply_defaults()
        _run, *names = bound.arguments
        return {name: bound.arguments[name] for name in names}

    def key(self, args: dict[str, Any]) -> str:
        """The lock's name for these arguments; those that it does not use may be left out.

        Raises:
            InvalidArgument: if one that it uses is missing.
        """
        return self._template.fill(args)

    def limited_message(self, decision: Decision) -> str | None:
        """What a caller beyond the limit is told; None for the usual words."""
        if self.limited is None:
            return None
        limit = self.limits[0]
        return self.limited.format(
            max=limit.max,
            per=f"{limit.per.total_seconds():g}",
            retry_after=max(1, round(decision.retry_after)),
        )
