"""Signing in with the token, and the headers that every answer carries."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "SecurityHeaders"]

_COOKIE = "pgsync_session"
_SECONDS = 12 * 3600
_CONTENT_POLICY = (
    b"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    b" base-uri 'none'; frame-ancestors 'none'"
)


class Access:
    """One token for all who may look; a session is a cookie that only this process could make."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # New with each start, so that a restart signs everybody out.
        self._key = secrets.token_bytes(32)

    def accepts(self, token: str) -> bool:
        """Whether this is the token; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(token.encode(errors="replace"), self._token)

    def is_signed_in(self, request: HTTPConnection) -> bool:
        """Whether the request has the session's cookie, or the token as a bearer."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.accepts(bearer):
            return True
        return hmac.compare_digest(request.cookies.get(_COOKIE, "").encode(), self._session())

    def sign_in(self, request: Request, response: Response) -> None:
        """Give the browser the session's cookie."""
        response.set_cookie(
            _COOKIE,
            self._session().decode(),
            max_age=_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path=request.scope.get("root_path") or "/",
        )

    def _session(self) -> bytes:
        return hmac.new(self._key, self._token, hashlib.sha256).hexdigest().encode()


class SecurityHeaders:
    """Adds the headers that keep a page to itself: no script, no frame, no foreign source."""

    _HEADERS = (
        (b"content-security-policy", _CONTENT_POLICY),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, self._adding(send) if scope["type"] == "http" else send)

    def _adding(self, send: Send) -> Callable[[Message], Awaitable[None]]:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._HEADERS]
            await send(message)

        return add
