"""Leadership: of all processes that stand for a name, one leads; another when it goes.

A leader is whoever holds the lock of that name, renewed while its process is healthy.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import psycopg

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import LockHeld, PgsyncError
from pgsync.locks.held import LockRequest
from pgsync.locks.keeper import LockKeeper
from pgsync.locks.lock import AsyncLock, Lock
from pgsync.pauses import Pauses, spread
from pgsync.scopes import AsyncBlock, Block

__all__ = ["AsyncElection", "Election"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("pgsync.locks")

_LOOK_SECONDS = 1.0


class _ElectionFace:
    """What both faces share: the request, and how long to pause between two tries."""

    def __init__(self, keeper: LockKeeper, request: LockRequest, retry: Duration) -> None:
        self._keeper = keeper
        self._request = replace(request, wait=0.0, auto_renew=True)
        self._retry = to_timedelta(retry, "retry").total_seconds()
        # Nobody leads until the next try, when the database is back.
        self._pauses = Pauses(self._retry, max(self._retry, 3.0))

    @property
    def name(self) -> str:
        """What is led."""
        return self._request.name

    def _pause_after(self, error: Exception) -> float:
        """Seconds until the next try: longer while the database is away, never in step."""
        if isinstance(error, LockHeld):
            self._pauses.reset()
            return spread(self._retry, 0.2)
        logger.warning("election %r: %s", self.name, error)
        return next(self._pauses)


class Election(_ElectionFace, Block):
    """Stands for leadership in a thread of its own. Made by ``Coordinator.elect``.

    ``on_gain`` is called with the lock, whose token and guard are for the leader's work, and
    ``on_loss`` with the reason, once after each gain; both in the election's thread, so they should
    start and stop work rather than do it.
    """

    def __init__(
        self,
        keeper: LockKeeper,
        request: LockRequest,
        retry: Duration,
        on_gain: Callable[[Lock], object] | None,
        on_loss: Callable[[str], object] | None,
    ) -> None:
        super().__init__(keeper, request, retry)
        self._on_gain = on_gain
        self._on_loss = on_loss
        self._changed = threading.Condition()
        self._lock: Lock | None = None
        self._leads = False
        self._stopping = False
        self._lost: str | None = None
        self._thread: threading.Thread | None = None

    def _begin(self) -> None:
        self.start()

    def _end(self) -> None:
        self.stop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Decorate a function: it runs where this process leads, and is None elsewhere."""

        @functools.wraps(function)
        def if_leader(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return function(*args, **kwargs) if self.is_leader else None

        return if_leader

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now, as far as it can know."""
        lock = self._lock
        return lock is not None and lock.held

    @property
    def lock(self) -> Lock | None:
        """The lock that makes this process the leader; None where it is not."""
        return self._lock

    def start(self) -> None:
        """Stand for election; nothing where it does already."""
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="pgsync-election", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stand no more, and give the leadership back if one has it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def wait(self, timeout: Duration | None = None) -> bool:
        """Wait until this process leads and ``on_gain`` has returned; says whether it does.

        ``timeout`` is in seconds.
        """
        seconds = None if timeout is None else to_timedelta(timeout, "timeout", zero=True)
        with self._changed:
            self._changed.wait_for(
                lambda: self._leads or self._stopping,
                seconds.total_seconds() if seconds is not None else None,
            )
        return self.is_leader

    def _run(self) -> None:
        while not self._stopping and not self._keeper.closed:
            lock = Lock(self._keeper, replace(self._request, on_lost=self._was_lost))
            self._lost = None
            try:
                lock.acquire()
            except (psycopg.Error, PgsyncError) as error:
                self._sleep(self._pause_after(error))
                continue
            self._pauses.reset()
            self._lead(lock)

    def _lead(self, lock: Lock) -> None:
        self._lock = lock
        self._tell(self._on_gain, lock)
        with self._changed:
            self._leads = True
            self._changed.notify_all()
            # A coordinator that is closed releases its locks and tells nobody.
            while not self._stopping and self._lost is None and (lock.held or lock.lost):
                self._changed.wait(_LOOK_SECONDS)
            self._leads = False
            self._lock = None
        self._tell(self._on_loss, self._lost or "it stands no more")
        with suppress(psycopg.Error, PgsyncError):
            lock.release()

    def _was_lost(self, reason: str) -> None:
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _tell(self, callback: Callable[[Any], object] | None, what: object) -> None:
        try:
            if callback is not None:
                callback(what)
        except Exception:
            logger.exception("election %r: its callback raised", self.name)


class AsyncElection(_ElectionFace, AsyncBlock):
    """As :class:`Election`, in a task of the running loop; its callbacks may be coroutines."""

    def __init__(
        self,
        keeper: LockKeeper,
        request: LockRequest,
        retry: Duration,
        on_gain: Callable[[AsyncLock], object] | None,
        on_loss: Callable[[str], object] | None,
    ) -> None:
        super().__init__(keeper, request, retry)
        self._on_gain = on_gain
        self._on_loss = on_loss
        self._gained = asyncio.Event()
        self._lock: AsyncLock | None = None
        self._task: asyncio.Task[None] | None = None

    async def _begin(self) -> None:
        await self.start()

    async def _end(self) -> None:
        await self.stop()

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R | None]]:
        """As :meth:`Election.__call__`, for a coroutine."""

        @functools.wraps(function)
        async def if_leader(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return await function(*args, **kwargs) if self.is_leader else None

        return if_leader

    @property
    def is_leader(self) -> bool:
        """As :attr:`Election.is_leader`."""
        return self._lock is not None and self._lock.held

    @property
    def lock(self) -> AsyncLock | None:
        """As :attr:`Election.lock`."""
        return self._lock

    async def start(self) -> None:
        """As :meth:`Election.start`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="pgsync-election")

    async def stop(self) -> None:
        """As :meth:`Election.stop`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def wait(self, timeout: Duration | None = None) -> bool:
        """As :meth:`Election.wait`."""
        seconds = None if timeout is None else to_timedelta(timeout, "timeout", zero=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else seconds.total_seconds()):
                await self._gained.wait()
        return self.is_leader

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._keeper.closed:
            lost: asyncio.Future[str] = loop.create_future()
            on_lost = functools.partial(_tell_loop, loop, lost)
            lock = AsyncLock(self._keeper, replace(self._request, on_lost=on_lost))
            try:
                await lock.acquire()
            except (psycopg.Error, PgsyncError) as error:
                await asyncio.sleep(self._pause_after(error))
                continue
            self._pauses.reset()
            await self._lead(lock, lost)

    async def _lead(self, lock: AsyncLock, lost: asyncio.Future[str]) -> None:
        reason = "it stands no more"
        self._lock = lock
        try:
            await self._tell(self._on_gain, lock)
            self._gained.set()
            while not lost.done() and (lock.held or lock.lost):
                await asyncio.wait([lost], timeout=_LOOK_SECONDS)
            if lost.done():
                reason = lost.result()
        finally:
            self._lock = None
            self._gained.clear()
            await self._tell(self._on_loss, reason)
            with suppress(psycopg.Error, PgsyncError):
                await lock.release()

    async def _tell(self, callback: Callable[[Any], object] | None, what: object) -> None:
        try:
            if callback is not None:
                answer = callback(what)
                if inspect.isawaitable(answer):
                    await answer
        except Exception:
            logger.exception("election %r: its callback raised", self.name)


def _tell_loop(loop: asyncio.AbstractEventLoop, lost: asyncio.Future[str], reason: str) -> None:
    def tell() -> None:
        if not lost.done():
            lost.set_result(reason)

    with suppress(RuntimeError):  # the loop may have been closed
        loop.call_soon_threadsafe(tell)
