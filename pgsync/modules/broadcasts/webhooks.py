"""The endpoint that the Graph API calls: its handshake, and events signed by the app's secret."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pgsync.modules.broadcasts.broadcasts import Broadcasts
from pgsync.modules.broadcasts.events import notices, statuses

__all__ = ["webhook_app"]

_LARGEST_BODY = 3 * 1024 * 1024


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
            event = json.loads(body)
            told = list(statuses(event)), list(notices(event))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return PlainTextResponse("not an event", status_code=400)
        await run_in_threadpool(self._enqueue, *told)
        return PlainTextResponse("ok")

    def _enqueue(self, statuses: list[dict[str, Any]], notices: list[dict[str, Any]]) -> None:
        # The API repeats events; one unfinished job for each is enough.
        update = self._broadcasts.campaign_status_update
        for status in statuses:
            key = f"status:{status['message_id']}:{status['status']}"
            update.options(unique_key=key).enqueue(**status)
        notice = self._broadcasts.whatsapp.template_notice
        for each in notices:
            key = f"notice:{each['remote_id']}:{each['kind']}:{each['value']}:{each['at']:.0f}"
            notice.options(unique_key=key).enqueue(**each)
