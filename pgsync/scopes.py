"""What is held in a block: ``with``, ``async with`` and the decorator, once for all kinds."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Self, TypeVar

from pgsync.errors import InvalidArgument

__all__ = ["AsyncBlock", "AsyncScope", "Block", "Scope"]

P = ParamSpec("P")
R = TypeVar("R")


class Block(ABC):
    """For ``with``."""

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end()

    @abstractmethod
    def _begin(self) -> None:
        """What ``with`` does first."""

    @abstractmethod
    def _end(self) -> None:
        """What is done at the end of the block, however it ends."""


class Scope(Block):
    """For ``with``, and as a decorator that runs each call of a function in a scope of its own."""

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call runs inside.

        A name may have places for the call's arguments: ``report:{day}``.

        Raises:
            InvalidArgument: if the name has a place for what is not a parameter.
        """
        if inspect.iscoroutinefunction(function):
            raise InvalidArgument(f"{function.__qualname__} is a coroutine: use AsyncCoordinator")
        scope_for = self._scope_maker(function)

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with scope_for(*args, **kwargs):
                return function(*args, **kwargs)

        return inside

    @abstractmethod
    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What makes the scope for one call of the function, from the call's own arguments."""


class AsyncBlock(ABC):
    """As :class:`Block`, for ``async with``."""

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._end()

    @abstractmethod
    async def _begin(self) -> None:
        """As :meth:`Block._begin`."""

    @abstractmethod
    async def _end(self) -> None:
        """As :meth:`Block._end`."""


class AsyncScope(AsyncBlock):
    """As :class:`Scope`, for ``async with`` and coroutines."""

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """As :meth:`Scope.__call__`, for a coroutine."""
        if not inspect.iscoroutinefunction(function):
            raise InvalidArgument(f"{function.__qualname__} is no coroutine: use Coordinator")
        scope_for = self._scope_maker(function)

        @functools.wraps(function)
        async def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            async with scope_for(*args, **kwargs):
                return await function(*args, **kwargs)

        return inside

    @abstractmethod
    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As :meth:`Scope._scope_maker`."""
