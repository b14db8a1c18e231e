"""The lock as a caller holds it: a blocking and an asyncio face over one keeper."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Required, TypedDict

from pgsync.database.drive import drive, drive_async
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, LockLost, PgsyncError
from pgsync.locks.calls import assert_lock, check_name
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.keeper import LockKeeper

__all__ = ["AsyncLock", "Lock", "LockOptions", "default_owner"]


def default_owner() -> str:
    """How this process calls itself: host and process id."""
    return f"{socket.gethostname()}/{os.getpid()}"


class LockOptions(TypedDict, total=False):
    """How a lock is held.

    ``ttl`` is the longest it may be held, in seconds, unless renewed; ``wait`` how long to wait for
    it. ``auto_renew`` renews it every third of the ttl while this process is healthy. ``on_lost``
    is called with the reason, from another thread, if it is taken away. ``owner`` is how the holder
    calls itself, for people.
    """

    ttl: Required[Duration]
    wait: Duration
    owner: str | None
    auto_renew: bool
    on_lost: Callable[[str], None] | None


class _LockFace:
    """What both faces share: the request, and the state that needs no waiting."""

    def __init__(self, keeper: LockKeeper, name: str, options: LockOptions) -> None:
        self._keeper = keeper
        self._request = LockRequest(
            check_name(name),
            to_timedelta(options["ttl"], "ttl"),
            options.get("owner") or default_owner(),
            to_timedelta(options.get("wait", 0), "wait", zero=True).total_seconds(),
            options.get("auto_renew", False),
            options.get("on_lost"),
        )
        self._held: HeldLock | None = None

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

    def _refuse_twice(self) -> None:
        if self.held:
            raise InvalidArgument(
                f"lock {self.name!r} is held by this object already: release it first"
            )

    def _guard_failed(self, error: PgsyncError | Exception) -> LockLost | None:
        if getattr(error, "sqlstate", None) == "PS001":
            return LockLost(self.name, "somebody else may hold it now, so nothing was committed")
        return None


class Lock(_LockFace):
    """A named lock, for ``with``. Made by ``Coordinator.lock``."""

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self, wait: Duration | None = None) -> None:
        """Take the lock, waiting at most ``wait`` seconds (by default what the lock was made with).

        Raises:
            LockHeld: if somebody else has it still; says who, since when and until when.
        """
        self._refuse_twice()
        self._held = drive(self._keeper.acquire(_with_wait(self._request, wait)))

    def release(self) -> bool:
        """Give the lock back; False where it was lost before, or never held."""
        return self._held is not None and drive(self._keeper.release(self._held))

    def renew(self, ttl: Duration | None = None) -> None:
        """Move the deadline to ``ttl`` from now (by default the lock's own).

        Raises:
            LockLost: if it is held no more.
        """
        drive(self._keeper.renew(self._current(), to_timedelta(ttl, "ttl") if ttl else None))

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
            run_within(connection, assert_lock(held.name, held.token))
        except Exception as error:
            raise self._guard_failed(error) or error from error


class AsyncLock(_LockFace):
    """A named lock, for ``async with``. Made by ``AsyncCoordinator.lock``."""

    async def __aenter__(self) -> AsyncLock:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()

    async def acquire(self, wait: Duration | None = None) -> None:
        """As :meth:`Lock.acquire`."""
        self._refuse_twice()
        self._held = await drive_async(self._keeper.acquire(_with_wait(self._request, wait)))

    async def release(self) -> bool:
        """As :meth:`Lock.release`."""
        return self._held is not None and await drive_async(self._keeper.release(self._held))

    async def renew(self, ttl: Duration | None = None) -> None:
        """As :meth:`Lock.renew`."""
        duration = to_timedelta(ttl, "ttl") if ttl else None
        await drive_async(self._keeper.renew(self._current(), duration))

    async def guard(self, connection: Any) -> None:
        """As :meth:`Lock.guard`."""
        held = self._current()
        held.check()
        try:
            await run_within_async(connection, assert_lock(held.name, held.token))
        except Exception as error:
            raise self._guard_failed(error) or error from error


def _with_wait(request: LockRequest, wait: Duration | None) -> LockRequest:
    if wait is None:
        return request
    return replace(request, wait=to_timedelta(wait, "wait", zero=True).total_seconds())
