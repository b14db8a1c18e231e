"""Named locks with an owner, a deadline and a fencing token."""

from pgsync.locks.calls import LockExplanation, LockInfo, lock_key
from pgsync.locks.election import AsyncElection, Election
from pgsync.locks.front import AsyncLocks, Locks
from pgsync.locks.held import HeldLock, LockRequest, ReleaseRequest
from pgsync.locks.keeper import LockKeeper
from pgsync.locks.lock import AsyncLock, Lock
from pgsync.locks.naming import default_owner
from pgsync.locks.options import LockOptions
from pgsync.locks.several import AsyncLockSet, LockSet

__all__ = [
    "AsyncElection",
    "AsyncLock",
    "AsyncLockSet",
    "AsyncLocks",
    "Election",
    "HeldLock",
    "Lock",
    "LockExplanation",
    "LockInfo",
    "LockKeeper",
    "LockOptions",
    "LockRequest",
    "LockSet",
    "Locks",
    "ReleaseRequest",
    "default_owner",
    "lock_key",
]
