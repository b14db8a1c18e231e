"""Permits for ``with`` and for decorators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgsync.durations import Duration
from pgsync.limits.decision import Decision
from pgsync.naming import name_maker
from pgsync.scopes import AsyncScope, Scope

if TYPE_CHECKING:
    from pgsync.limits.limiter import AsyncLimiter, Limiter

__all__ = ["AsyncPermit", "Permit"]

L = TypeVar("L", "Limiter", "AsyncLimiter")


class _PermitFace(Generic[L]):
    """``decision`` is what the limiter answered."""

    decision: Decision

    def __init__(self, limiter: L, key: str, cost: int, timeout: Duration) -> None:
        self._limiter: L = limiter
        self._key = key
        self._cost = cost
        self._timeout = timeout

    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        key_for = name_maker(self._key, function, "the limit's key")

        def scope_for(*args: Any, **kwargs: Any) -> Any:
            key = key_for(*args, **kwargs)
            return type(self)(self._limiter, key, self._cost, self._timeout)

        return scope_for


class Permit(_PermitFace["Limiter"], Scope):
    """Takes permits when the block begins; what fails in it does not give them back."""

    def _begin(self) -> None:
        self.decision = self._limiter.acquire(self._key, self._cost, timeout=self._timeout)

    def _end(self) -> None:
        """As :meth:`Block._end`: the permit is spent."""


class AsyncPermit(_PermitFace["AsyncLimiter"], AsyncScope):
    """As :class:`Permit`, awaited."""

    async def _begin(self) -> None:
        self.decision = await self._limiter.acquire(self._key, self._cost, timeout=self._timeout)

    async def _end(self) -> None:
        """As :meth:`Permit._end`."""
