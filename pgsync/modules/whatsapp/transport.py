"""How requests to the Graph API travel: which are retried, and which errors came before sending."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
)
from urllib3.util.retry import Retry

from pgsync.limits.retry_after import retry_after
from pgsync.pauses import spread

__all__ = ["BearerToken", "GraphAdapter", "certainly_unsent"]

_LONGEST_PAUSE = 30.0
"""Seconds a reading call may sleep on its own; a longer Retry-After is the caller's business."""


class BearerToken(requests.auth.AuthBase):
    """Puts the token into the ``Authorization`` header, and shows it nowhere else.

    An auth object, since requests lets a ``.netrc`` file overrule a plain header.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "BearerToken(...)"


class _ReadRetry(Retry):
    """Retries of GET: bounded, with full jitter, each one after the caller's hook."""

    # A 429 is handed to the caller at once, who tells all workers to wait.
    RETRY_AFTER_STATUS_CODES = frozenset({503})

    before: Callable[[], None] | None = None
    factor: float = 0.0

    def new(self, **changes: Any) -> _ReadRetry:
        """Return the next state of this retry, with the same hook."""
        following = super().new(**changes)
        following.before, following.factor = self.before, self.factor
        return following

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> _ReadRetry:
        """Spend one retry, or give up: also when the API asks for a longer pause than ours."""
        if response is not None:
            asked = self.get_retry_after(response)
            if asked is not None and asked > _LONGEST_PAUSE:
                raise MaxRetryError(_pool, url or "", None)  # type: ignore[arg-type]
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Return the seconds of the answer's Retry-After, None where it is unreadable."""
        return retry_after(response.headers.get("Retry-After"))

    def get_backoff_time(self) -> float:
        """Return a random part of the bound, which doubles with each retry (seconds)."""
        bound = min(self.factor * 2.0 ** max(len(self.history) - 1, 0), _LONGEST_PAUSE)
        return spread(bound, 1.0)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Pause, then ask the caller's hook, since a retry is a call as any other."""
        super().sleep(response)
        if self.before is not None:
            self.before()


class GraphAdapter(BaseAdapter):
    """Sends GET with retries and everything else exactly once, over kept connections.

    Two adapters and not one with ``allowed_methods``, since urllib3 also repeats a POST whose
    connection attempt failed or that met an error it cannot sort.
    """

    def __init__(
        self,
        *,
        retries: int,
        backoff: float,
        connections: int,
        before_retry: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        policy = _ReadRetry(
            total=retries,
            allowed_methods={"GET"},
            status_forcelist={500, 502, 503, 504},
            redirect=False,
            raise_on_status=False,
        )
        policy.before, policy.factor = before_retry, backoff
        self._reading = HTTPAdapter(max_retries=policy, pool_maxsize=connections)
        once = Retry(0, read=False, redirect=False)
        self._once = HTTPAdapter(max_retries=once, pool_maxsize=connections)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request by the adapter for its method."""
        adapter = self._reading if request.method == "GET" else self._once
        return adapter.send(request, stream, timeout, verify, cert, proxies)

    def close(self) -> None:
        """Close all kept connections."""
        self._reading.close()
        self._once.close()


def certainly_unsent(error: BaseException) -> bool:
    """Return whether ``error`` came before any byte of the request went out.

    True for a refused connection, an unknown host, a timeout while connecting, a certificate that
    does not fit. False for everything else: there the API may have acted on the request.
    """
    cause: object = error
    if isinstance(error, requests.exceptions.ConnectionError) and error.args:
        cause = error.args[0]
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, ProxyError):
        cause = cause.original_error
    if isinstance(cause, NewConnectionError | ConnectTimeoutError | ssl.SSLCertVerificationError):
        return True
    arguments = cause.args if isinstance(cause, Exception) else ()
    return any(isinstance(argument, ssl.SSLCertVerificationError) for argument in arguments)
