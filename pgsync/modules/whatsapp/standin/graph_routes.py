"""The Graph API's side of the stand-in: from a request to its answer, or to its fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pgsync.modules.whatsapp.standin.calls import Call, Reply, carry_out
from pgsync.modules.whatsapp.standin.faults import Fault, Taken
from pgsync.modules.whatsapp.standin.ledger import masked
from pgsync.modules.whatsapp.standin.problems import Refusal, error_body, problem
from pgsync.modules.whatsapp.standin.throttles import usage_headers
from pgsync.modules.whatsapp.standin.wire import reset, truncate
from pgsync.modules.whatsapp.standin.world import World

__all__ = ["GraphRoutes"]

_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>"


class GraphRoutes:
    """Answers every path that is not a control endpoint."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopping = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        """Answer one request, log it, and let its faults happen."""
        call = await _read(request)
        taken = Taken()
        try:
            accounts = self.world.allowed(call.token)
            taken = self.world.faults.take(call.method, call.path, call.to)
            if taken.answer is not None and not taken.answer.accept:
                reply = Reply(200, {})
            else:
                reply = carry_out(self.world, accounts, call, taken)
        except Refusal as refusal:
            reply = Reply(refusal.status, refusal.body, refusal.headers)
        early = self.world.follow_up(reply.message) if reply.message is not None else None
        if taken.answer is not None and taken.answer.kind == "error":
            _replace(reply, taken.answer)
        self._log(call, reply, taken)
        if early is not None:
            await asyncio.to_thread(early)
        await self._pause(self.world.latency + (taken.slow.seconds if taken.slow else 0.0))
        return await _deliver(request, reply, taken.answer)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the server stops."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)

    def _log(self, call: Call, reply: Reply, taken: Taken) -> None:
        status = reply.status
        if taken.answer is not None and taken.answer.kind in ("reset", "truncated"):
            status = 0
        elif taken.answer is not None and taken.answer.kind == "html":
            status = taken.answer.status or 502
        self.world.ledger.record(
            method=call.method,
            path=call.path,
            query={
                **call.query,
                **({"access_token": "..."} if "access_token" in call.query else {}),
            },
            body=call.body,
            token=masked(call.token),
            status=status,
            answer=_without_token(reply.body, call.token),
            faults=tuple(taken.kinds),
            message_id=reply.message.id if reply.message is not None else None,
        )


async def _read(request: Request) -> Call:
    raw = await request.body()
    body: Any = None
    if raw:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = raw[:1000].decode(errors="replace")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    token = credentials.strip() if scheme.lower() == "bearer" else None
    return Call(
        method=request.method,
        path=request.url.path,
        query=dict(request.query_params),
        body=body,
        token=token or request.query_params.get("access_token"),
        origin=f"{request.url.scheme}://{request.url.netloc}",
    )


def _replace(reply: Reply, fault: Fault) -> None:
    """Turn the reply into the error answer that was asked for; an accepted message stays so."""
    reply.status = fault.status if fault.status is not None else problem(fault.code).status
    reply.body = error_body(fault.code, fault.details, subcode=fault.subcode)
    if fault.usage_minutes is not None:
        reply.headers |= usage_headers("100000000000001", 100, fault.usage_minutes)
    if fault.retry_after is not None:
        reply.headers["Retry-After"] = f"{fault.retry_after:g}"


async def _deliver(request: Request, reply: Reply, fault: Fault | None) -> Response:
    body = json.dumps(reply.body, separators=(",", ":")).encode()
    kind = fault.kind if fault is not None else ""
    if kind == "reset":
        await reset(request)
        return Response()
    if kind == "truncated":
        await truncate(request, reply.status, body if len(body) > 20 else body + b" " * 20)
        return Response()
    if fault is not None and kind == "html":
        headers = {} if fault.location is None else {"Location": fault.location}
        if fault.retry_after is not None:
            headers["Retry-After"] = f"{fault.retry_after:g}"
        return Response(_HTML, fault.status or 502, headers=headers, media_type="text/html")
    if kind == "invalid_json":
        body = body[:-1] + b",,"
    return Response(body, reply.status, headers=reply.headers, media_type="application/json")


def _without_token(body: dict[str, Any], token: str | None) -> dict[str, Any]:
    """Return the body for the log: the link to the next page holds the token."""
    paging = body.get("paging")
    if token is None or not isinstance(paging, dict) or "next" not in paging:
        return body
    return {**body, "paging": {**paging, "next": paging["next"].replace(token, "...")}}
