"""Calls by requests within a limit that all processes share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from pgsync.doors.outgoing import Key, host_key, key_of, send_limited
from pgsync.durations import Duration, to_timedelta
from pgsync.limits import Limiter

__all__ = ["LimitedAdapter"]


def _host(request: requests.PreparedRequest) -> str:
    parts = urlsplit(request.url or "")
    return host_key(parts.hostname, parts.port)


class LimitedAdapter(HTTPAdapter):
    """Takes a permit of ``limiter`` before it sends: mount it in a session.

    ``key`` is the limiter's key, or a function of the prepared request; by default the host. A call
    waits ``wait`` seconds at most for its permit. ``options`` are those of requests' own adapter,
    whose ``max_retries`` repeat a call without another permit.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        key: Key[requests.PreparedRequest] = _host,
        wait: Duration = 30,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._limiter = limiter
        self._key = key
        self._wait = to_timedelta(wait, "wait", zero=True)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request when there is a permit for it.

        Raises:
            RateLimited: as soon as it is known that the wait is too long; nothing was sent.
        """
        key = key_of(self._key, request)
        send = partial(super().send, request, stream, timeout, verify, cert, proxies)
        return send_limited(self._limiter, key, self._wait, send)
