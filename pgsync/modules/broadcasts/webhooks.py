"""The endpoint that the Graph API calls: its handshake, and events signed by the app's secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pgsync.modules.broadcasts.broadcasts import Broadcasts
from pgsync.modules.broadcasts.statuses import STATUSES

__all__ = ["webhook_app"]

logger = logging.getLogger("pgsync.modules.broadcasts")

_LARGEST_BODY = 3 * 1024 * 1024
_MESSAGE_ID = re.compile(r"[!-~]{1,256}")
_LATEST = 253_402_300_799.0
"""The end of the year 9999, in Unix seconds."""


def webhook_app(broadcasts: Broadcasts, *, app_secret: str, verify_token: str) -> Starlette:
    """An ASGI app with the endpoint at ``/``: it checks, enqueues, and answers at once.

    ``app_secret`` is what the API signs with, ``verify_token`` what it shows in the handshake.
    """
    endpoint = _Endpoint(broadcasts, app_secret.encode(), verify_token.encode())
    return Starlette(
        routes=[
            Route("/", endpoint.verify, methods=["GET"]),
            Route("/", endpoint.receive, methods=["POST"]),
        ]
    )


class _Endpoint:
    def __init__(self, broadcasts: Broadcasts, secret: bytes, verify_token: bytes) -> None:
        self._broadcasts = broadcasts
        self._secret = secret
        self._verify_token = verify_token

    async def verify(self, request: Request) -> Response:
        shown = request.query_params.get("hub.verify_token", "").encode()
        if request.query_params.get("hub.mode") != "subscribe" or not hmac.compare_digest(
            shown, self._verify_token
        ):
            return PlainTextResponse("wrong token", status_code=403)
        return PlainTextResponse(request.query_params.get("hub.challenge", "")[:1000])

    async def receive(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BODY:
                return PlainTextResponse("too large", status_code=413)
        signature = request.headers.get("x-hub-signature-256", "")
        expected = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            return PlainTextResponse("wrong signature", status_code=403)
        try:
            statuses = list(_statuses(json.loads(body)))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return PlainTextResponse("not an event", status_code=400)
        await run_in_threadpool(self._enqueue, statuses)
        return PlainTextResponse("ok")

    def _enqueue(self, statuses: list[dict[str, Any]]) -> None:
        operation = self._broadcasts.campaign_status_update
        for status in statuses:
            # The API repeats events; one unfinished job for each is enough.
            key = f"status:{status['message_id']}:{status['status']}"
            operation.options(unique_key=key).enqueue(**status)


def _statuses(event: Any) -> Iterator[dict[str, Any]]:
    """The statuses of an event that are of a kind we know."""
    for entry in event.get("entry") or ():
        for change in entry.get("changes") or ():
            for status in (change.get("value") or {}).get("statuses") or ():
                try:
                    arguments = _arguments(status)
                except (ValueError, TypeError, AttributeError, LookupError):
                    # Refusing the whole event would lose the others, which the API sent with it.
                    logger.warning("a webhook holds a status that cannot be understood")
                    continue
                if arguments is not None:
                    yield arguments


def _arguments(status: Any) -> dict[str, Any] | None:
    """What the operation is called with; None for a status of a kind that we do not keep."""
    message_id = status["id"]
    if status["status"] not in STATUSES:
        return None
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("the message's id")
    at = float(status["timestamp"])
    if not 0 <= at <= _LATEST:
        raise ValueError("the time")
    code = status["errors"][0].get("code") if status.get("errors") else None
    callback_data = status.get("biz_opaque_callback_data")
    return {
        "message_id": message_id,
        "status": status["status"],
        "at": at,
        "callback_data": callback_data if isinstance(callback_data, str) else None,
        "error_code": code if isinstance(code, int) else None,
    }
