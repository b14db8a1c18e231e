"""The asyncio face, called as if it were the blocking one, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any


class Blocking:
    """An event loop in a thread; what it wraps answers when what is awaited has come."""

    def __enter__(self) -> Blocking:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop")
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wrap(self, make: Callable[[], Any]) -> Any:
        """Make an object on the loop and return it wrapped."""

        async def on_loop() -> Any:
            return make()

        return Wrapped(self.wait(on_loop()), self)

    def wait(self, awaitable: Any) -> Any:
        """Run a coroutine on the loop to its end."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)

    def seen(self, value: Any) -> Any:
        """A value as the test sees it: awaited, and wrapped where it has asyncio methods."""
        if inspect.iscoroutine(value):
            value = self.wait(value)
        if type(value).__name__.startswith("Async"):
            return Wrapped(value, self)
        if inspect.isfunction(value):  # a decorator, whose product may be of the asyncio face
            return lambda *args, **kwargs: self.seen(value(*args, **kwargs))
        return value


class Wrapped:
    """An object of the asyncio face with blocking methods and ``with``."""

    def __init__(self, wrapped: Any, portal: Blocking) -> None:
        self.wrapped = wrapped
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.wrapped, name)
        if inspect.ismethod(value):
            return lambda *args, **kwargs: self._portal.seen(value(*args, **kwargs))
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._portal.seen(self.wrapped(*args, **kwargs))

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def __enter__(self) -> Any:
        self._portal.wait(self.wrapped.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._portal.wait(self.wrapped.__aexit__(*error))
