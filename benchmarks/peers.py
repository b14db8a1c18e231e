"""Other libraries beside which pgsync is measured, where they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.pgqueuer_peer import missing_for_pgqueuer
from benchmarks.redis_server import find_redis, redis_server, redis_version

__all__ = ["LIMIT_PEERS", "LOCK_PEERS", "PeerLock", "Peers", "found_peers", "redis_client"]

_HOLD = 60
_WAIT = 30


class PeerLock(Protocol):
    """A peer's lock as both of them have it."""

    def release(self) -> None:
        """Give it back."""


def _redis_py(client: Any, name: str) -> PeerLock:
    lock = client.lock(name, timeout=_HOLD, blocking_timeout=_WAIT)
    assert lock.acquire()
    return lock  # type: ignore[no-any-return]


def _python_redis_lock(client: Any, name: str) -> PeerLock:
    import redis_lock

    lock = redis_lock.Lock(client, name, expire=_HOLD)
    assert lock.acquire(timeout=_WAIT)
    return lock  # type: ignore[no-any-return]


LOCK_PEERS: Mapping[str, Callable[[Any, str], PeerLock]] = {
    "redis-py Lock": _redis_py,
    "python-redis-lock": _python_redis_lock,
}
"""Of each peer, what takes the lock of a name, waiting as its library does by default."""


def _limits(client: Any, limit: int) -> Callable[[str], bool]:
    from limits import RateLimitItemPerHour
    from limits.storage import RedisStorage
    from limits.strategies import FixedWindowRateLimiter

    storage = RedisStorage("redis://", connection_pool=client.connection_pool)
    hit, item = FixedWindowRateLimiter(storage).hit, RateLimitItemPerHour(limit)
    return lambda key: hit(item, key)


def _throttled(client: Any, limit: int) -> Callable[[str], bool]:
    import throttled

    path = client.connection_pool.connection_kwargs["path"]
    limiter = throttled.Throttled(
        using="fixed_window",
        quota=throttled.per_hour(limit),
        store=throttled.RedisStore(server=f"unix://{path}"),
    )
    return lambda key: not limiter.limit(key).limited


LIMIT_PEERS: Mapping[str, Callable[[Any, int], Callable[[str], bool]]] = {
    "limits": _limits,
    "throttled-py": _throttled,
}
"""Of each peer, what makes a fixed window of so many an hour: whether a key's hit is admitted."""

_LIBRARIES = {
    "redis-py Lock": ("redis",),
    "python-redis-lock": ("redis", "redis_lock"),
    "limits": ("redis", "limits"),
    "throttled-py": ("redis", "throttled"),
}


@dataclass(frozen=True, slots=True)
class Peers:
    """Which peers take part, their Redis (version and socket), and why the others are missing.

    ``names`` are those of locks, ``limiters`` those of rate limits.
    """

    names: tuple[str, ...] = ()
    limiters: tuple[str, ...] = ()
    pgqueuer: bool = False
    redis: str = ""
    socket: str = ""
    missing: tuple[str, ...] = ()


@contextmanager
def found_peers() -> Iterator[Peers]:
    """The peers whose libraries are installed, with a Redis of their own for the ``with``."""
    no_pgqueuer = missing_for_pgqueuer()
    without = () if no_pgqueuer is None else (no_pgqueuer,)
    program = find_redis()
    if program is None:
        reason = "redis-server is not on the PATH; Debian's package has that name"
        missing = tuple(f"{name}: {reason}" for name in _LIBRARIES)
        yield Peers(pgqueuer=not without, missing=(*missing, *without))
        return
    absent = {
        name: next((lib for lib in libraries if importlib.util.find_spec(lib) is None), None)
        for name, libraries in _LIBRARIES.items()
    }
    with redis_server(program) as socket:
        found = tuple(name for name, library in absent.items() if library is None)
        yield Peers(
            tuple(name for name in found if name in LOCK_PEERS),
            tuple(name for name in found if name in LIMIT_PEERS),
            not without,
            redis_version(program),
            socket,
            (
                *(
                    f"{name}: the library {library} is not installed; use the extra bench"
                    for name, library in absent.items()
                    if library is not None
                ),
                *without,
            ),
        )


def redis_client(socket: str) -> Any:
    """A client as its library ships it."""
    import redis

    return redis.Redis(unix_socket_path=socket)
