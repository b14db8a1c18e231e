"""The API's rate limits, and the headers with which it tells of them."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["Throttle", "Throttles", "usage_headers"]

_SCOPES = {4: "token", 80007: "account", 130429: "number", 131056: "pair"}
_NUMBER_SCOPES = frozenset({"number", "pair"})


@dataclass(slots=True)
class Throttle:
    """At most ``limit`` requests a window of ``per`` seconds, which the first one opens.

    ``scope`` is what is counted: token, account, number or pair (number and recipient); by
    default what ``code`` is documented for. ``retry_after`` and ``usage`` say which headers tell
    the time to wait; ``minutes`` replaces the usage header's figure.
    """

    limit: int
    per: float
    code: int = 80007
    scope: str = ""
    retry_after: bool = True
    usage: bool = True
    minutes: int | None = None
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scope = self.scope or _SCOPES.get(self.code, "account")
        if self.scope not in _SCOPES.values():
            raise ValueError(f"scope {self.scope!r} is not one of {', '.join(_SCOPES.values())}")
        if self.limit < 0 or self.per <= 0:
            raise ValueError("a throttle needs a limit of 0 or more and a window above 0 seconds")

    def hit(self, key: str, now: float) -> tuple[int, float]:
        """Count one request; return the count in its window and the seconds to its end."""
        opened, count = self._windows.get(key, (now, 0))
        if now - opened >= self.per:
            opened, count = now, 0
        self._windows[key] = (opened, count + 1)
        return count + 1, opened + self.per - now


class Throttles:
    """All rate limits of the stand-in. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._throttles: list[Throttle] = []

    def add(self, throttle: Throttle) -> None:
        """Set one more rate limit."""
        with self._lock:
            self._throttles.append(throttle)

    def clear(self) -> None:
        """Lift all rate limits."""
        with self._lock:
            self._throttles.clear()

    def hit(self, keys: Mapping[str, str], account: str) -> dict[str, str]:
        """Count one request and return the usage headers of its answer.

        ``keys`` holds for each scope what is counted; a request that is no message has no
        ``number`` and no ``pair``.

        Raises:
            Refusal: if a limit is used up.
        """
        headers: dict[str, str] = {}
        with self._lock:
            for throttle in self._throttles:
                key = keys.get(throttle.scope)
                if key is None:
                    continue
                count, left = throttle.hit(key, time.monotonic())
                if count <= throttle.limit:
                    percent = 100 * count // throttle.limit
                    if throttle.usage:
                        headers |= usage_headers(account, percent, 0, throttle.scope)
                    continue
                raise Refusal(throttle.code, headers=self._refusal(throttle, account, left))
        return headers

    @staticmethod
    def _refusal(throttle: Throttle, account: str, left: float) -> dict[str, str]:
        headers: dict[str, str] = {}
        if throttle.usage:
            minutes = throttle.minutes if throttle.minutes is not None else math.ceil(left / 60)
            headers = usage_headers(account, 100, minutes, throttle.scope)
        if throttle.retry_after:
            headers["Retry-After"] = str(math.ceil(left))
        return headers


def usage_headers(account: str, percent: int, minutes: int, scope: str = "") -> dict[str, str]:
    """Return the usage headers; the time to regain access is in minutes, as the API has it."""
    messaging = scope in _NUMBER_SCOPES
    case = {
        "type": "whatsapp_business_messaging" if messaging else "whatsapp_business_management",
        "call_count": percent,
        "total_cputime": percent // 4,
        "total_time": percent // 4,
        "estimated_time_to_regain_access": minutes,
    }
    app = {"call_count": percent, "total_cputime": percent // 4, "total_time": percent // 4}
    return {
        "X-Business-Use-Case-Usage": json.dumps({account: [case]}),
        "X-App-Usage": json.dumps(app),
    }
