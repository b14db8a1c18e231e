"""What a coordinator offers about locks, once for each face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from pgsync.database.drive import drive, drive_async
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration
from pgsync.locks import calls
from pgsync.locks.calls import LockExplanation, LockInfo
from pgsync.locks.election import AsyncElection, Election
from pgsync.locks.keeper import LockKeeper
from pgsync.locks.lock import AsyncLock, Lock
from pgsync.locks.naming import check_name, default_owner
from pgsync.locks.options import LockOptions, lock_request, lock_requests
from pgsync.locks.several import AsyncLockSet, LockSet
from pgsync.locks.transaction import AsyncTransactionLock, TransactionLock

__all__ = ["AsyncLocks", "Locks"]


class Locks:
    """The locks of a blocking coordinator."""

    database: Database
    _keeper: LockKeeper

    def lock(self, name: str, **options: Unpack[LockOptions]) -> Lock:
        """A lock for ``with`` or as a decorator; see :class:`LockOptions`. Nothing is taken yet."""
        return Lock(self._keeper, lock_request(name, options))

    def semaphore(self, name: str, slots: int, **options: Unpack[LockOptions]) -> Lock:
        """One of ``slots`` places, each held and used as a lock is.

        A semaphore and a lock of the same name know nothing of each other. All who use it should
        give the same number of slots: who gives more may hold more.
        """
        return Lock(self._keeper, lock_request(name, options, slots))

    def concurrency(self, name: str, most: int, *, wait: Duration = 0, ttl: Duration = 60) -> Lock:
        """At most ``most`` at a time, in all processes together, for ``with`` or as a decorator.

        A semaphore whose places are renewed while their process is healthy: one that dies gives its
        own back at once, one that hangs after ``ttl`` seconds. Who finds no place in ``wait``
        seconds gets :class:`LockHeld`.
        """
        return self.semaphore(f"concurrency:{name}", most, ttl=ttl, wait=wait, auto_renew=True)

    def lock_all(self, names: Sequence[str], **options: Unpack[LockOptions]) -> LockSet:
        """Several locks for ``with``: all of them or none, and no two callers in a deadlock."""
        return LockSet(self._keeper, lock_requests(names, options))

    def restore_lock(self, name: str, token: int, **options: Unpack[LockOptions]) -> Lock:
        """Take a lock that another process has handed over: it is held on return.

        Raises:
            LockLost: if the token has not been handed over, or its deadline has passed.
        """
        request = lock_request(name, options)
        return Lock(self._keeper, request, drive(self._keeper.restore(request, token)))

    def transaction_lock(
        self, connection: Any, name: str, *, wait: Duration = 0, shared: bool = False
    ) -> TransactionLock:
        """A lock on the caller's connection (psycopg or SQLAlchemy) until its transaction ends.

        As a decorator it takes the name of the function's parameter that holds the connection.
        """
        return TransactionLock(connection, name, wait, shared)

    def elect(
        self,
        name: str,
        *,
        ttl: Duration = 15,
        retry: Duration = 1,
        on_gain: Callable[[Lock], object] | None = None,
        on_loss: Callable[[str], object] | None = None,
        owner: str | None = None,
    ) -> Election:
        """Stand for leadership of ``name``, for ``with``: of all who do, one leads.

        Who does not lead asks every ``retry`` seconds. A leader that freezes is followed after
        ``ttl`` seconds at the latest, one that dies after ``retry``.
        """
        request = lock_request(name, {"ttl": ttl, "owner": owner})
        return Election(self._keeper, request, retry, on_gain, on_loss)

    def fence(self, resource: str, token: int, *, within: Any = None) -> None:
        """Let a token pass if none higher has passed for the resource.

        With ``within`` (a connection or session) it is part of that transaction.

        Raises:
            StaleToken: if a higher one has passed: a later holder works on it.
        """
        call = calls.fence(check_name(resource), token)
        if within is None:
            self.database.run(call)
        else:
            run_within(within, call)

    def list_locks(self) -> list[LockInfo]:
        """The locks that are held now, by any process."""
        return self.database.run(calls.list_locks())

    def explain_lock(self, name: str) -> LockExplanation:
        """Who holds the lock, since when, who waits for it, and what would free it."""
        return self.database.run(calls.explain_lock(check_name(name)))

    def ask_to_release(self, name: str, *, by: str | None = None, why: str | None = None) -> int:
        """Ask the holders to finish; returns how many were asked. Written to the audit trail."""
        return self.database.run(calls.ask_to_release(check_name(name), by or default_owner(), why))

    def force_release(self, name: str, *, by: str | None = None, why: str | None = None) -> bool:
        """Take the lock from its holders by ending their sessions; False where nobody holds it.

        The other locks of those sessions are lost too. Written to the audit trail.
        """
        return self.database.run(calls.force_unlock(check_name(name), by or default_owner(), why))


class AsyncLocks:
    """The locks of an asyncio coordinator."""

    database: AsyncDatabase
    _keeper: LockKeeper

    def lock(self, name: str, **options: Unpack[LockOptions]) -> AsyncLock:
        """As :meth:`Locks.lock`."""
        return AsyncLock(self._keeper, lock_request(name, options))

    def semaphore(self, name: str, slots: int, **options: Unpack[LockOptions]) -> AsyncLock:
        """As :meth:`Locks.semaphore`."""
        return AsyncLock(self._keeper, lock_request(name, options, slots))

    def concurrency(
        self, name: str, most: int, *, wait: Duration = 0, ttl: Duration = 60
    ) -> AsyncLock:
        """As :meth:`Locks.concurrency`."""
        return self.semaphore(f"concurrency:{name}", most, ttl=ttl, wait=wait, auto_renew=True)

    def lock_all(self, names: Sequence[str], **options: Unpack[LockOptions]) -> AsyncLockSet:
        """As :meth:`Locks.lock_all`."""
        return AsyncLockSet(self._keeper, lock_requests(names, options))

    async def restore_lock(
        self, name: str, token: int, **options: Unpack[LockOptions]
    ) -> AsyncLock:
        """As :meth:`Locks.restore_lock`."""
        request = lock_request(name, options)
        held = await drive_async(self._keeper.restore(request, token))
        return AsyncLock(self._keeper, request, held)

    def transaction_lock(
        self, connection: Any, name: str, *, wait: Duration = 0, shared: bool = False
    ) -> AsyncTransactionLock:
        """As :meth:`Locks.transaction_lock`."""
        return AsyncTransactionLock(connection, name, wait, shared)

    def elect(
        self,
        name: str,
        *,
        ttl: Duration = 15,
        retry: Duration = 1,
        on_gain: Callable[[AsyncLock], object] | None = None,
        on_loss: Callable[[str], object] | None = None,
        owner: str | None = None,
    ) -> AsyncElection:
        """As :meth:`Locks.elect`; the callbacks may be coroutines."""
        request = lock_request(name, {"ttl": ttl, "owner": owner})
        return AsyncElection(self._keeper, request, retry, on_gain, on_loss)

    async def fence(self, resource: str, token: int, *, within: Any = None) -> None:
        """As :meth:`Locks.fence`."""
        call = calls.fence(check_name(resource), token)
        if within is None:
            await self.database.run(call)
        else:
            await run_within_async(within, call)

    async def list_locks(self) -> list[LockInfo]:
        """As :meth:`Locks.list_locks`."""
        return await self.database.run(calls.list_locks())

    async def explain_lock(self, name: str) -> LockExplanation:
        """As :meth:`Locks.explain_lock`."""
        return await self.database.run(calls.explain_lock(check_name(name)))

    async def ask_to_release(
        self, name: str, *, by: str | None = None, why: str | None = None
    ) -> int:
        """As :meth:`Locks.ask_to_release`."""
        call = calls.ask_to_release(check_name(name), by or default_owner(), why)
        return await self.database.run(call)

    async def force_release(
        self, name: str, *, by: str | None = None, why: str | None = None
    ) -> bool:
        """As :meth:`Locks.force_release`."""
        call = calls.force_unlock(check_name(name), by or default_owner(), why)
        return await self.database.run(call)
