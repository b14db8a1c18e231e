"""Calls by httpx within a limit that all processes share."""

from __future__ import annotations

from functools import partial

import httpx

from pgsync.doors.outgoing import Key, host_key, key_of, send_limited, send_limited_async
from pgsync.durations import Duration, to_timedelta
from pgsync.limits import AsyncLimiter, Limiter

__all__ = ["AsyncLimitedTransport", "LimitedTransport"]


def _host(request: httpx.Request) -> str:
    return host_key(request.url.host, request.url.port)


class LimitedTransport(httpx.BaseTransport):
    """Takes a permit of ``limiter`` before it sends by ``transport``, by default httpx's own.

    ``key`` is the limiter's key, or a function of the request; by default the host. A call waits
    ``wait`` seconds at most for its permit, apart from httpx's timeouts.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        key: Key[httpx.Request] = _host,
        wait: Duration = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._limiter = limiter
        self._key = key
        self._wait = to_timedelta(wait, "wait", zero=True)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request when there is a permit for it.

        Raises:
            RateLimited: as soon as it is known that the wait is too long; nothing was sent.
        """
        key = key_of(self._key, request)
        send = partial(self._transport.handle_request, request)
        return send_limited(self._limiter, key, self._wait, send)

    def close(self) -> None:
        """Close the transport beneath."""
        self._transport.close()


class AsyncLimitedTransport(httpx.AsyncBaseTransport):
    """As :class:`LimitedTransport`, for ``httpx.AsyncClient``."""

    def __init__(
        self,
        limiter: AsyncLimiter,
        *,
        key: Key[httpx.Request] = _host,
        wait: Duration = 30,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._limiter = limiter
        self._key = key
        self._wait = to_timedelta(wait, "wait", zero=True)
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As :meth:`LimitedTransport.handle_request`."""
        key = key_of(self._key, request)
        send = partial(self._transport.handle_async_request, request)
        return await send_limited_async(self._limiter, key, self._wait, send)

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._transport.aclose()
