"""What a caller may choose about a lock, and the request that it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Required, TypedDict

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.locks.held import LockRequest, ReleaseRequest
from pgsync.locks.naming import check_name, default_owner

__all__ = ["LockOptions", "lock_request", "lock_requests"]


class LockOptions(TypedDict, total=False):
    """How a lock is held.

    ``ttl`` is the longest it may be held, in seconds, unless renewed; ``wait`` how long to wait for
    it. ``auto_renew`` renews it every third of the ttl while this process is healthy. ``on_lost``
    is called with the reason, from another thread, if it is taken away. ``owner`` is how the holder
    calls itself, for people. ``shared`` lets any number hold it who all share. ``lock_delay`` keeps
    it from everybody for so many seconds after this holder was lost without giving it back.
    ``on_request`` is called, from another thread, when somebody asks the holder to finish.
    ``audit`` writes contention for it, and its expiry, to the audit trail.
    """

    ttl: Required[Duration]
    wait: Duration
    owner: str | None
    auto_renew: bool
    on_lost: Callable[[str], None] | None
    shared: bool
    lock_delay: Duration | None
    on_request: Callable[[ReleaseRequest], None] | None
    audit: bool


def lock_request(name: str, options: LockOptions, slots: int | None = None) -> LockRequest:
    """The request for a lock, or with ``slots`` for one slot of a semaphore.

    Raises:
        InvalidArgument: for what no lock can be.
    """
    if "ttl" not in options:
        raise InvalidArgument("a lock needs a ttl: the longest it may be held, in seconds")
    shared = options.get("shared", False)
    owner = options.get("owner") or default_owner()
    if not isinstance(owner, str):
        raise InvalidArgument(f"a lock's owner must be text, not {owner!r}")
    if slots is not None:
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 1000:
            raise InvalidArgument(f"a semaphore has from 1 to 1000 slots, not {slots!r}")
        if shared:
            raise InvalidArgument("a semaphore's slots are exclusive: leave shared out")
    delay = options.get("lock_delay")
    return LockRequest(
        check_name(name),
        to_timedelta(options["ttl"], "ttl"),
        owner,
        to_timedelta(options.get("wait", 0), "wait", zero=True).total_seconds(),
        options.get("auto_renew", False),
        options.get("on_lost"),
        "semaphore" if slots is not None else "shared" if shared else "exclusive",
        slots,
        to_timedelta(delay, "lock_delay") if delay else None,
        options.get("audit", False),
        options.get("on_request"),
    )


def lock_requests(names: Iterable[str], options: LockOptions) -> list[LockRequest]:
    """The requests for several locks.

    Raises:
        InvalidArgument: for what no lock can be, and where it is one name and not several.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidArgument(f"several locks need a list of names, not {names!r}")
    return [lock_request(name, options) for name in names]
