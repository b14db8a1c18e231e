"""The lock as a caller holds it: a blocking and an asyncio face over one keeper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from pgsync.database.drive import drive, drive_async
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, LockLost
from pgsync.locks.calls import assert_lock
from pgsync.locks.held import HeldLock, LockRequest, ReleaseRequest
from pgsync.locks.keeper import LockKeeper
from pgsync.naming import name_maker
from pgsync.scopes import AsyncScope, Scope

__all__ = ["AsyncLock", "Lock", "guard_failed"]


class _LockFace:
    """What both faces share: the request, and the state that needs no waiting."""

    def __init__(
        self, keeper: LockKeeper, request: LockRequest, held: HeldLock | None = None
    ) -> None:
        self._keeper = keeper
        self._request = request
        self._held = held
        self._restored = held is not None

    def __repr__(self) -> str:
        held = self._held
        state = "not held" if held is None else "lost" if self.lost else f"token {held.token}"
        return f"<{type(self).__name__} {self.name!r} {state}>"

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._request.name

    @property
    def token(self) -> int:
        """The fencing token of this grant: higher than that of any grant before it."""
        return self._current().token

    @property
    def expires_at(self) -> datetime:
        """When the lock ends unless renewed: server time, UTC."""
        return self._current().expires_at

    @property
    def held(self) -> bool:
        """Whether it is held now, as far as this process can know."""
        return self._held is not None and not self._held.ended

    @property
    def lost(self) -> bool:
        """Whether it was taken away: its deadline passed, or its session ended."""
        return self._held is not None and self._held.lost_because is not None

    @property
    def asked_to_release(self) -> ReleaseRequest | None:
        """Who has asked this holder to finish, and why; known only with ``on_request``."""
        return self._held.request_to_release if self._held is not None else None

    def check(self) -> None:
        """Raise unless the lock is held still. Costs nothing: no round trip.

        Raises:
            LockLost: if it was lost or released, or its deadline has passed.
        """
        self._current().check()

    def _current(self) -> HeldLock:
        if self._held is None:
            raise LockLost(self.name, "it was not acquired")
        return self._held

    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name_for = name_maker(self.name, function, "the lock's name")

        def scope_for(*args: Any, **kwargs: Any) -> Any:
            name = name_for(*args, **kwargs)
            return type(self)(self._keeper, replace(self._request, name=name))

        return scope_for

    def _came_held(self) -> bool:
        """Whether this is the first ``with`` of a lock that was restored, and so is held."""
        restored, self._restored = self._restored, False
        return restored

    def _to_acquire(self, wait: Duration | None) -> LockRequest:
        if self.held:
            raise InvalidArgument(
                f"lock {self.name!r} is held by this object already: release it first"
            )
        if wait is None:
            return self._request
        return replace(self._request, wait=to_timedelta(wait, "wait", zero=True).total_seconds())


class Lock(_LockFace, Scope):
    """A named lock, for ``with`` or as a decorator. Made by ``Coordinator.lock`` and its kin."""

    def _begin(self) -> None:
        if not self._came_held():
            self.acquire()

    def _end(self) -> None:
        self.release()

    def acquire(self, wait: Duration | None = None) -> None:
        """Take the lock, waiting at most ``wait`` seconds (by default what the lock was made with).

        Raises:
            LockHeld: if somebody else has it still; says who, since when and until when.
            LockCapacityError: if a quarter of the server's lock table is used.
        """
        self._held = drive(self._keeper.acquire(self._to_acquire(wait)))

    def release(self) -> bool:
        """Give the lock back; False where it was lost before, or never held."""
        return self._held is not None and drive(self._keeper.release(self._held))

    def renew(self, ttl: Duration | None = None) -> None:
        """Move the deadline to ``ttl`` from now (by default the lock's own).

        Raises:
            LockLost: if it is held no more.
        """
        drive(self._keeper.renew(self._current(), to_timedelta(ttl, "ttl") if ttl else None))

    def hand_over(self) -> int:
        """Leave the lock to whoever calls ``restore_lock`` with the token that is returned.

        Until its deadline nobody else is granted it, whatever becomes of this process.

        Raises:
            LockLost: if it is held no more.
        """
        return drive(self._keeper.hand_over(self._current()))

    def guard(self, connection: Any) -> None:
        """In the transaction of ``connection`` (psycopg or SQLAlchemy), prove the lock is held.

        Its writes and the proof commit together or not at all, and the next holder waits for that
        transaction to end. Call it inside the transaction, before or after the writes.

        Raises:
            LockLost: if the token holds the lock no more; roll back.
        """
        held = self._current()
        held.check()
        try:
            run_within(connection, assert_lock(held.name, held.token), lasting=True)
        except Exception as error:
            raise guard_failed(held.name, error) or error from error


class AsyncLock(_LockFace, AsyncScope):
    """As :class:`Lock`, for ``async with`` and coroutines. Made by ``AsyncCoordinator.lock``."""

    async def _begin(self) -> None:
        if not self._came_held():
            await self.acquire()

    async def _end(self) -> None:
        await self.release()

    async def acquire(self, wait: Duration | None = None) -> None:
        """As :meth:`Lock.acquire`."""
        self._held = await drive_async(self._keeper.acquire(self._to_acquire(wait)))

    async def release(self) -> bool:
        """As :meth:`Lock.release`."""
        return self._held is not None and await drive_async(self._keeper.release(self._held))

    async def renew(self, ttl: Duration | None = None) -> None:
        """As :meth:`Lock.renew`."""
        duration = to_timedelta(ttl, "ttl") if ttl else None
        await drive_async(self._keeper.renew(self._current(), duration))

    async def hand_over(self) -> int:
        """As :meth:`Lock.hand_over`."""
        return await drive_async(self._keeper.hand_over(self._current()))

    async def guard(self, connection: Any) -> None:
        """As :meth:`Lock.guard`."""
        held = self._current()
        held.check()
        try:
            await run_within_async(connection, assert_lock(held.name, held.token), lasting=True)
        except Exception as error:
            raise guard_failed(held.name, error) or error from error


def guard_failed(name: str, error: Exception) -> LockLost | None:
    """What a guard's error means, where it means that the lock is held no more."""
    if getattr(error, "sqlstate", None) == "PS001":
        return LockLost(name, "somebody else may hold it now, so nothing was committed")
    return None
