"""Outgoing HTTP calls within a limit: what the doors of requests and httpx share.

Before each call a permit of its key is taken, with a bounded wait. An answer of 429 or 503 with
``Retry-After`` closes the key for all processes until then, so that none of them asks in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeAlias, TypeVar

import psycopg

from pgsync.errors import PgsyncError
from pgsync.limits import AsyncLimiter, Limiter
from pgsync.limits.retry_after import asked_pause

__all__ = ["Key", "host_key", "key_of", "send_limited", "send_limited_async"]

logger = logging.getLogger("pgsync.doors")


class _Answer(Protocol):
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


Request = TypeVar("Request")
Answer = TypeVar("Answer", bound=_Answer)

Key: TypeAlias = str | Callable[[Request], str]
"""The limiter's key of a call: one for all of them, or what a function makes of the request."""


def key_of(key: Key[Request], request: Request) -> str:
    """The key of one request."""
    return key(request) if callable(key) else key


def host_key(host: str | None, port: int | None) -> str:
    """The key of a call to a host, with its port where that is not the scheme's own."""
    return f"{host}:{port}" if port else str(host)


def send_limited(limiter: Limiter, key: str, wait: timedelta, send: Callable[[], Answer]) -> Answer:
    """Send when there is a permit, and close the key if the answer asks for it."""
    limiter.acquire(key, timeout=wait)
    answer = send()
    pause = asked_pause(answer.status_code, answer.headers)
    if pause is not None:
        with _failures_logged(key):
            limiter.penalize(key, pause, _reason(answer))
    return answer


async def send_limited_async(
    limiter: AsyncLimiter, key: str, wait: timedelta, send: Callable[[], Awaitable[Answer]]
) -> Answer:
    """As :func:`send_limited`."""
    await limiter.acquire(key, timeout=wait)
    answer = await send()
    pause = asked_pause(answer.status_code, answer.headers)
    if pause is not None:
        with _failures_logged(key):
            await limiter.penalize(key, pause, _reason(answer))
    return answer


def _reason(answer: _Answer) -> str:
    return f"Retry-After of HTTP {answer.status_code}"


@contextmanager
def _failures_logged(key: str) -> Iterator[None]:
    # The call was made: its answer weighs more than what others would have been told.
    try:
        yield
    except (PgsyncError, psycopg.Error):
        logger.warning("the key %r could not be closed for others", key, exc_info=True)
