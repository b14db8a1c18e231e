"""Signing in with a token, the role that it gives, and the headers that every answer carries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MOST_BYTES", "Access", "BoundedBody", "SecurityHeaders", "Session"]

MOST_BYTES = 4 << 20
"""Of a request's body: the arguments of a job, 1 MiB at most, as a form has them."""

_COOKIE = "pgsync_session"
_SECONDS = 12 * 3600
_LONGEST_NAME = 60
_CONTENT_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Session:
    """Who has signed in: with which role, as whom, and until when (seconds since 1970)."""

    role: str
    name: str
    nonce: str
    until: int

    @property
    def may_act(self) -> bool:
        """Whether this session may change anything."""
        return self.role == "operate"


class Access:
    """Two tokens, one to operate and one that only reads; sessions are signed cookies.

    The keys that sign them come from the tokens: sessions outlive a restart, hold at every
    dashboard that has the token, and end where it is changed.
    """

    def __init__(self, token: str, read_token: str | None = None) -> None:
        self._tokens = [(token.encode(), "operate")]
        if read_token:
            self._tokens.append((read_token.encode(), "read"))
        self._keys = {role: _signing_key(token) for token, role in self._tokens}

    def role_of(self, token: str) -> str | None:
        """The role that a token gives; takes the same time whatever is wrong with it."""
        given = token.encode(errors="replace")
        fitting = [role for known, role in self._tokens if hmac.compare_digest(given, known)]
        return fitting[0] if fitting else None

    def session(self, request: HTTPConnection) -> Session | None:
        """The session of the request's cookie, or of a token that it has as a bearer."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and (role := self.role_of(bearer)):
            return Session(role, "bearer", "", 0)
        body, _, signature = request.cookies.get(_COOKIE, "").partition(".")
        for role in self._keys:
            if self.is_signed(signature, "session", body, role):
                session = Session(role, **json.loads(base64.urlsafe_b64decode(body)))
                return session if session.until > time.time() else None
        return None

    def sign_in(self, request: Request, response: Response, role: str, name: str) -> None:
        """Give the browser a session's cookie."""
        name = "".join(each for each in name if each.isprintable()).strip()[:_LONGEST_NAME]
        facts = {
            "name": name or "dashboard",
            "nonce": secrets.token_hex(8),
            "until": int(time.time()) + _SECONDS,
        }
        body = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode()
        response.set_cookie(
            _COOKIE,
            f"{body}.{self.sign('session', body, role)}",
            max_age=_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path=request.scope.get("root_path") or "/",
        )

    def sign_out(self, request: Request, response: Response) -> None:
        """Take the cookie away."""
        response.delete_cookie(_COOKIE, path=request.scope.get("root_path") or "/")

    def form_token(self, session: Session) -> str:
        """What each form of the session carries, and no other site can know."""
        return self.sign("form", session.nonce, session.role)

    def is_own_form(self, session: Session, token: object) -> bool:
        """Whether a form came from a page of this session; never for a bearer, which has none."""
        return (
            isinstance(token, str)
            and bool(session.nonce)
            and self.is_signed(token, "form", session.nonce, session.role)
        )

    def sign(self, purpose: str, body: str, role: str = "operate") -> str:
        """The signature of something that a browser keeps."""
        return hmac.new(self._keys[role], f"{purpose}:{body}".encode(), hashlib.sha256).hexdigest()

    def is_signed(self, signature: str, purpose: str, body: str, role: str = "operate") -> bool:
        """Whether that is the signature; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(signature.encode(), self.sign(purpose, body, role).encode())


def _signing_key(token: bytes) -> bytes:
    # Slow (some 50 ms), so that who got hold of a cookie cannot try out tokens with it. The number
    # changes with what is signed.
    return hashlib.scrypt(token, salt=b"pgsync dashboard 1", n=2**14, r=8, p=1, dklen=32)


class BoundedBody:
    """Refuses a request with a body of over 4 MiB: forms are read into memory.

    Starlette before 1.5 bounds no part of those that browsers send.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        size = 0

        async def count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BYTES:
                raise HTTPException(413, "a form must have at most 4 MiB")
            return message

        return count


class SecurityHeaders:
    """Adds the headers that keep a page to itself: no inline script, no frame, no other source."""

    _HEADERS = (
        (b"content-security-policy", _CONTENT_POLICY),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, self._adding(send) if scope["type"] == "http" else send)

    def _adding(self, send: Send) -> Callable[[Message], Awaitable[None]]:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                # What has a tag is kept, and asked for again by it.
                caching = b"no-cache" if b"etag" in names else b"no-store"
                message["headers"] = [
                    *message["headers"],
                    *self._HEADERS,
                    (b"cache-control", caching),
                ]
            await send(message)

        return add
