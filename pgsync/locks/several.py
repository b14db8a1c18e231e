"""Several locks at once: all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pgsync.database.drive import drive, drive_async
from pgsync.durations import Duration
from pgsync.errors import InvalidArgument
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.keeper import LockKeeper
from pgsync.locks.lock import AsyncLock, Lock
from pgsync.naming import name_maker
from pgsync.scopes import AsyncScope, Scope

__all__ = ["AsyncLockSet", "LockSet"]


class _SetFace:
    """What both faces share: the requests in the order in which all take them.

    One order for everybody is what keeps two callers from each waiting for the other's lock. It is
    that of the names' bytes, as SQL's ``try_locks`` has it.
    """

    def __init__(self, keeper: LockKeeper, requests: Sequence[LockRequest]) -> None:
        names = [request.name for request in requests]
        if not names or len(set(names)) != len(names):
            raise InvalidArgument("several locks need at least one name, and each name once")
        self._keeper = keeper
        self._requests = sorted(requests, key=lambda request: request.name.encode())

    def _refuse_twice(self, held: Mapping[str, Any]) -> None:
        if any(lock.held for lock in held.values()):
            raise InvalidArgument("these locks are held by this object already: release them first")

    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        makers = [
            (request, name_maker(request.name, function, "the lock's name"))
            for request in self._requests
        ]

        def scope_for(*args: Any, **kwargs: Any) -> Any:
            named = [replace(request, name=make(*args, **kwargs)) for request, make in makers]
            return type(self)(self._keeper, named)

        return scope_for

    def _pairs(self, held: Sequence[HeldLock]) -> list[tuple[LockRequest, HeldLock]]:
        return list(zip(self._requests, held, strict=True))


class LockSet(_SetFace, Scope):
    """Several locks for ``with``. Made by ``Coordinator.lock_all``."""

    def __init__(self, keeper: LockKeeper, requests: Sequence[LockRequest]) -> None:
        super().__init__(keeper, requests)
        self.locks: dict[str, Lock] = {}

    def _begin(self) -> None:
        self.acquire()

    def _end(self) -> None:
        self.release()

    def __getitem__(self, name: str) -> Lock:
        return self.locks[name]

    def acquire(self) -> None:
        """Take all the locks or none.

        Raises:
            LockHeld: for the one that somebody else has still.
        """
        self._refuse_twice(self.locks)
        held = drive(self._keeper.acquire_all(self._requests))
        self.locks = {r.name: Lock(self._keeper, r, h) for r, h in self._pairs(held)}

    def release(self) -> bool:
        """Give them all back; False where one had been lost."""
        released = [lock.release() for lock in self.locks.values()]
        return all(released)

    def renew(self, ttl: Duration | None = None) -> None:
        """Move all deadlines to ``ttl`` from now; raises LockLost if one is held no more."""
        for lock in self.locks.values():
            lock.renew(ttl)

    def check(self) -> None:
        """Raise LockLost unless all are held still. Costs no round trip."""
        for lock in self.locks.values():
            lock.check()

    def guard(self, connection: Any) -> None:
        """As :meth:`Lock.guard`, for all of them."""
        for lock in self.locks.values():
            lock.guard(connection)


class AsyncLockSet(_SetFace, AsyncScope):
    """As :class:`LockSet`, for ``async with``. Made by ``AsyncCoordinator.lock_all``."""

    def __init__(self, keeper: LockKeeper, requests: Sequence[LockRequest]) -> None:
        super().__init__(keeper, requests)
        self.locks: dict[str, AsyncLock] = {}

    async def _begin(self) -> None:
        await self.acquire()

    async def _end(self) -> None:
        await self.release()

    def __getitem__(self, name: str) -> AsyncLock:
        return self.locks[name]

    async def acquire(self) -> None:
        """As :meth:`LockSet.acquire`."""
        self._refuse_twice(self.locks)
        held = await drive_async(self._keeper.acquire_all(self._requests))
        self.locks = {r.name: AsyncLock(self._keeper, r, h) for r, h in self._pairs(held)}

    async def release(self) -> bool:
        """As :meth:`LockSet.release`."""
        released = [await lock.release() for lock in self.locks.values()]
        return all(released)

    async def renew(self, ttl: Duration | None = None) -> None:
        """As :meth:`LockSet.renew`."""
        for lock in self.locks.values():
            await lock.renew(ttl)

    def check(self) -> None:
        """As :meth:`LockSet.check`."""
        for lock in self.locks.values():
            lock.check()

    async def guard(self, connection: Any) -> None:
        """As :meth:`LockSet.guard`."""
        for lock in self.locks.values():
            await lock.guard(connection)
