"""Named locks with an owner, a deadline and a fencing token."""

from pgsync.locks.calls import LockInfo, lock_key
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.keeper import LockKeeper
from pgsync.locks.lock import AsyncLock, Lock, LockOptions, default_owner

__all__ = [
    "AsyncLock",
    "HeldLock",
    "Lock",
    "LockInfo",
    "LockKeeper",
    "LockOptions",
    "LockRequest",
    "default_owner",
    "lock_key",
]
