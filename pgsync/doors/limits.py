"""A storage for the library ``limits``: its strategies, Flask-Limiter and slowapi on PostgreSQL.

Importing this module registers the schemes ``pgsync+postgresql://`` and, for the strategies of
``limits.aio``, ``async+pgsync+postgresql://``; without a server after it, ``pgsync://`` is what
``PGSYNC_DSN`` names.

The decisions are the server's (``sql/api/2_limits_storage.sql``). The library speaks of moments by
the caller's clock, so what the server says in seconds from now is added to that one.
"""

from __future__ import annotations

import time
import weakref
from typing import Any, TypeVar

import psycopg
from limits.aio import storage as aio
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.database.calls import Call
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import PgsyncError
from pgsync.limits import storage as calls

__all__ = ["AsyncPostgresStorage", "PostgresStorage"]

_PREFIX = "LIMITS"
_PATIENCE = 5.0

T = TypeVar("T")


class _Face:
    """What both faces share: names of keys, patience, and which errors are the storage's own."""

    def _declare(self, key_prefix: str, patience: Duration) -> None:
        self.key_prefix = key_prefix
        self._patience = to_timedelta(patience, "patience").total_seconds()

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What ``wrap_exceptions`` wraps."""
        return (PgsyncError, psycopg.Error)

    def prefixed(self, key: str) -> str:
        """The key as the database knows it."""
        return f"{self.key_prefix}:{key}"


def _dsn(uri: str | None) -> str | None:
    """What libpq reads; None where the environment names the server."""
    dsn = (uri or "pgsync:").removeprefix("async+").removeprefix("pgsync+")
    return None if dsn.startswith("pgsync:") else dsn


class PostgresStorage(_Face, Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """The storage of ``limits.strategies``.

    It works on a ``coordinator`` of the app's, or on one of its own that is made from ``uri`` and
    takes its further ``options`` (``direct_dsn``, ``pool_size``). ``key_prefix`` keeps apps on one
    database apart: :meth:`reset` forgets those with the same prefix. A hit fails where it has no
    connection after ``patience`` seconds.
    """

    STORAGE_SCHEME = ["pgsync", "pgsync+postgresql", "pgsync+postgres"]

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        coordinator: Coordinator | None = None,
        key_prefix: str = _PREFIX,
        patience: Duration = _PATIENCE,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._declare(key_prefix, patience)
        if coordinator is None:
            coordinator = Coordinator(_dsn(uri), **options)
            # The library never closes a storage.
            weakref.finalize(self, coordinator.close)
        self._database = coordinator.database

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count a hit of a fixed window and return how many it has."""
        return self._run(calls.incr(self.prefixed(key), expiry, amount))

    def get(self, key: str) -> int:
        """The hits of a fixed window."""
        return self._run(calls.get(self.prefixed(key))).hits

    def get_expiry(self, key: str) -> float:
        """When a fixed window ends, in seconds since the epoch; now where there is none."""
        return time.time() + self._run(calls.get(self.prefixed(key))).expires_in

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take permits of a moving window, if it has them."""
        return self._run(calls.acquire_entry(self.prefixed(key), limit, expiry, amount))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest permit was taken, in seconds since the epoch, and how many are."""
        hits, oldest = self._run(calls.get_moving(self.prefixed(key), expiry))
        return time.time() - oldest, hits

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Take permits of a sliding window counter, if it has them."""
        return self._run(calls.acquire_sliding(self.prefixed(key), limit, expiry, amount))

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The hits of the window before and of the current one, each with its seconds left."""
        return self._run(calls.get_sliding(self.prefixed(key), expiry))

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget a key."""
        self.clear(key)

    def clear(self, key: str) -> None:
        """Forget a key."""
        self._run(calls.clear(self.prefixed(key)))

    def reset(self) -> int:
        """Forget all keys of the prefix and return how many were in use."""
        return self._run(calls.reset(self.prefixed("")))

    def check(self) -> bool:
        """Whether the database answers."""
        try:
            self._run(calls.ping())
        except self.base_exceptions:
            return False
        return True

    def _run(self, call: Call[T]) -> T:
        return self._database.run(call, self._patience)


class AsyncPostgresStorage(
    _Face, aio.Storage, aio.MovingWindowSupport, aio.SlidingWindowCounterSupport
):
    """The storage of ``limits.aio.strategies``; as :class:`PostgresStorage`.

    It belongs to the event loop that first uses it. Close a coordinator of its own by
    :meth:`close`.
    """

    STORAGE_SCHEME = ["async+pgsync", "async+pgsync+postgresql", "async+pgsync+postgres"]

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        coordinator: AsyncCoordinator | None = None,
        key_prefix: str = _PREFIX,
        patience: Duration = _PATIENCE,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._declare(key_prefix, patience)
        self._coordinator = coordinator or AsyncCoordinator(_dsn(uri), **options)
        self._owned = coordinator is None
        self._database = self._coordinator.database

    async def close(self) -> None:
        """Close the coordinator, unless it is the app's."""
        if self._owned:
            await self._coordinator.close()

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """As :meth:`PostgresStorage.incr`."""
        return await self._run(calls.incr(self.prefixed(key), expiry, amount))

    async def get(self, key: str) -> int:
        """As :meth:`PostgresStorage.get`."""
        return (await self._run(calls.get(self.prefixed(key)))).hits

    async def get_expiry(self, key: str) -> float:
        """As :meth:`PostgresStorage.get_expiry`."""
        window = await self._run(calls.get(self.prefixed(key)))
        return time.time() + window.expires_in

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """As :meth:`PostgresStorage.acquire_entry`."""
        return await self._run(calls.acquire_entry(self.prefixed(key), limit, expiry, amount))

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """As :meth:`PostgresStorage.get_moving_window`."""
        hits, oldest = await self._run(calls.get_moving(self.prefixed(key), expiry))
        return time.time() - oldest, hits

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """As :meth:`PostgresStorage.acquire_sliding_window_entry`."""
        return await self._run(calls.acquire_sliding(self.prefixed(key), limit, expiry, amount))

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """As :meth:`PostgresStorage.get_sliding_window`."""
        return await self._run(calls.get_sliding(self.prefixed(key), expiry))

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """As :meth:`PostgresStorage.clear_sliding_window`."""
        await self.clear(key)

    async def clear(self, key: str) -> None:
        """As :meth:`PostgresStorage.clear`."""
        await self._run(calls.clear(self.prefixed(key)))

    async def reset(self) -> int:
        """As :meth:`PostgresStorage.reset`."""
        return await self._run(calls.reset(self.prefixed("")))

    async def check(self) -> bool:
        """As :meth:`PostgresStorage.check`."""
        try:
            await self._run(calls.ping())
        except self.base_exceptions:
            return False
        return True

    async def _run(self, call: Call[T]) -> T:
        return await self._database.run(call, self._patience)
