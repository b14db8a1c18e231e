"""A lock that this process holds, until it is released or lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from pgsync.counts import count
from pgsync.errors import LockLost

if TYPE_CHECKING:
    from pgsync.locks.session import LockSession

__all__ = ["HeldLock", "LockRequest", "ReleaseRequest"]

T = TypeVar("T")

logger = logging.getLogger("pgsync.locks")


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Somebody asks the holder of a lock to finish: who, and why if they said so."""

    name: str
    asked_by: str
    why: str | None


@dataclass(frozen=True, slots=True)
class LockRequest:
    """What a caller asks for; ``wait`` is in seconds."""

    name: str
    ttl: timedelta
    owner: str
    wait: float = 0.0
    auto_renew: bool = False
    on_lost: Callable[[str], None] | None = None
    mode: str = "exclusive"
    slots: int | None = None
    delay: timedelta | None = None
    audited: bool = False
    on_request: Callable[[ReleaseRequest], None] | None = None

    @property
    def line(self) -> tuple[str, int | None]:
        """The line of this process in which it stands: a semaphore is a name of its own."""
        return (self.name, self.slots)


class HeldLock:
    """The state of one grant, shared by its holder and the watchdog.

    ``leave`` lets the next caller of this process have its turn. ``deadline`` is on this machine's
    monotonic clock, so it needs no server to be kept; ``expires_at`` is the server's. ``noted`` is
    the watchdog's: the moment at which it looks next.
    """

    def __init__(
        self,
        request: LockRequest,
        token: int,
        acquired_at: datetime | None,
        expires_at: datetime,
        deadline: float,
        session: LockSession,
        leave: Callable[[], None],
    ) -> None:
        self.request = request
        self.name = request.name
        self.ttl = request.ttl
        self.token = token
        self.acquired_at = acquired_at
        self.expires_at = expires_at
        self.deadline = deadline
        self.noted = deadline
        self._renew_at = deadline - self.ttl.total_seconds() * 2 / 3
        self.session = session
        self.leave = leave
        self.lost_because: str | None = None
        self.request_to_release: ReleaseRequest | None = None
        self._released = False
        self._ending = threading.Lock()

    @property
    def next_moment(self) -> float:
        """When the watchdog must act (monotonic): to renew at a third of the ttl, or to end it."""
        return min(self._renew_at, self.deadline) if self.request.auto_renew else self.deadline

    @property
    def overdue(self) -> str:
        """Why it is lost when its deadline has passed."""
        return f"its ttl of {self.ttl.total_seconds():g} s passed"

    @property
    def ended(self) -> bool:
        """Whether it was released or lost."""
        return self._released or self.lost_because is not None

    def renewing(self, now: float) -> None:
        """A renewal is under way; without an answer the next one begins a sixth of the ttl on."""
        self._renew_at = now + self.ttl.total_seconds() / 6

    def renewed(self, sent_at: float, expires_at: datetime) -> None:
        """Record a renewal whose request was sent at ``sent_at`` (monotonic)."""
        self.deadline = sent_at + self.ttl.total_seconds()
        self._renew_at = sent_at + self.ttl.total_seconds() / 3
        self.expires_at = expires_at

    def end(self, lost_because: str | None = None) -> bool:
        """Mark it released, or lost for a reason; False where it had ended already."""
        with self._ending:
            if self.ended:
                return False
            self.lost_because = lost_because
            self._released = lost_because is None
        if lost_because is None:
            return True
        count("pgsync_lock_lost_total")
        self.leave()
        if self.request.on_lost is not None:
            self._tell(self.request.on_lost, lost_because)
        return True

    def leave_to_parent(self) -> None:
        """In a forked child: it is the parent's, which knows nothing of this copy."""
        self._ending = threading.Lock()
        self.lost_because = "the process was forked, and its parent holds the lock"

    def asked_to_release(self, request: ReleaseRequest) -> None:
        """Record, and tell the holder once, that somebody asks it to finish."""
        if self.request_to_release is None and not self.ended:
            self.request_to_release = request
            if self.request.on_request is not None:
                self._tell(self.request.on_request, request)

    def _tell(self, callback: Callable[[T], None], what: T) -> None:
        # In a thread of its own: the caller's code may be slow or raise, and whoever finds a lock
        # lost has other locks to see to.
        def call() -> None:
            try:
                callback(what)
            except Exception:
                logger.exception("lock %r: its callback raised", self.name)

        threading.Thread(target=call, name="pgsync-lock-told", daemon=True).start()

    def check(self) -> None:
        """Raise unless the lock is held still.

        Raises:
            LockLost: if it was lost or released, or its deadline has passed.
        """
        if self.lost_because is not None:
            raise LockLost(self.name, self.lost_because)
        if self._released:
            raise LockLost(self.name, "it was released")
        if time.monotonic() >= self.deadline:
            raise LockLost(self.name, self.overdue)
