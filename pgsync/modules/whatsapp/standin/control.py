"""The control endpoints under ``/_standin/``, for a test or a demo in another process.

They need no token: the stand-in is meant for the loopback interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.faults import Fault
from pgsync.modules.whatsapp.standin.throttles import Throttle
from pgsync.modules.whatsapp.standin.webhooks import Plan
from pgsync.modules.whatsapp.standin.world import World

__all__ = ["PREFIX", "control_routes"]

PREFIX = "/_standin"

Endpoint = Callable[[Request], Awaitable[Response]]


def control_routes(world: World) -> list[Route]:
    """Return the control endpoints of ``world``."""
    control = _Control(world)
    table: list[tuple[str, str, Endpoint]] = [
        ("/state", "GET", control.state),
        ("/log", "GET", control.log),
        ("/log", "DELETE", control.forget),
        ("/faults", "GET", control.faults),
        ("/faults", "POST", control.add_fault),
        ("/faults", "DELETE", control.clear_faults),
        ("/throttles", "POST", control.add_throttle),
        ("/throttles", "DELETE", control.clear_throttles),
        ("/accounts", "POST", control.add_account),
        ("/templates", "POST", control.add_template),
        ("/templates/{id}", "PATCH", control.change_template),
        ("/templates/{id}", "DELETE", control.remove_template),
        ("/webhooks", "PUT", control.plan_webhooks),
        ("/webhooks/status", "POST", control.send_status),
        ("/webhooks/template", "POST", control.send_template_event),
    ]
    return [
        Route(PREFIX + path, _clear_errors(endpoint), methods=[method])
        for path, method, endpoint in table
    ]


def _clear_errors(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except KeyError as error:
            return JSONResponse({"error": f"unknown: {error}"}, 404)
        except (RuntimeError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return answer


async def _values(request: Request) -> dict[str, Any]:
    values = await request.json()
    if not isinstance(values, dict):
        raise TypeError("the body must be a JSON object")
    return values


class _Control:
    def __init__(self, world: World) -> None:
        self.world = world

    async def state(self, _request: Request) -> Response:
        accounts = [
            {
                "waba_id": account.waba_id,
                "phone_number_ids": list(account.numbers),
                "templates": len(account.templates),
            }
            for account in self.world.accounts()
        ]
        return JSONResponse({"accounts": accounts, **self.world.ledger.counts()})

    async def log(self, request: Request) -> Response:
        query = request.query_params
        entries = self.world.ledger.entries(
            after=int(query.get("after", "0")),
            method=query.get("method", ""),
            path=query.get("path", ""),
        )
        return JSONResponse(
            {"entries": [entry.as_json() for entry in entries[: int(query.get("limit", "1000"))]]}
        )

    async def forget(self, _request: Request) -> Response:
        self.world.ledger.clear()
        return Response(status_code=204)

    async def faults(self, _request: Request) -> Response:
        return JSONResponse({"faults": [asdict(each) for each in self.world.faults.waiting()]})

    async def add_fault(self, request: Request) -> Response:
        self.world.faults.add(Fault.read(await _values(request)))
        return Response(status_code=204)

    async def clear_faults(self, _request: Request) -> Response:
        self.world.faults.clear()
        return Response(status_code=204)

    async def add_throttle(self, request: Request) -> Response:
        self.world.throttles.add(Throttle(**await _values(request)))
        return Response(status_code=204)

    async def clear_throttles(self, _request: Request) -> Response:
        self.world.throttles.clear()
        return Response(status_code=204)

    async def add_account(self, request: Request) -> Response:
        self.world.add_account(**await _values(request))
        return Response(status_code=204)

    async def add_template(self, request: Request) -> Response:
        values = await _values(request)
        waba_id = values.pop("waba_id", None)
        for account in self.world.accounts():
            if waba_id in (None, account.waba_id):
                return JSONResponse(account.templates.add(**values), 201)
        raise KeyError(waba_id)

    async def change_template(self, request: Request) -> Response:
        template_id = request.path_params["id"]
        changed = self._holding(template_id).change(template_id, **await _values(request))
        return JSONResponse(changed)

    async def remove_template(self, request: Request) -> Response:
        template_id = request.path_params["id"]
        self._holding(template_id).remove(template_id)
        return Response(status_code=204)

    async def plan_webhooks(self, request: Request) -> Response:
        values = await _values(request)
        url, statuses = values.pop("url"), values.pop("statuses", None)
        if statuses is not None:
            values["statuses"] = tuple(statuses)
        self.world.webhooks.plan = Plan(**values)
        self.world.webhooks.url = url
        return Response(status_code=204)

    async def send_status(self, request: Request) -> Response:
        envelope = self.world.status_webhook(**await _values(request))
        return JSONResponse({"status": await self._post(envelope)})

    async def send_template_event(self, request: Request) -> Response:
        values = await _values(request)
        envelope = self.world.template_webhook(
            values["template_id"], values["field"], values["value"]
        )
        return JSONResponse({"status": await self._post(envelope)})

    async def _post(self, envelope: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.world.webhooks.post, envelope)

    def _holding(self, template_id: str) -> Catalogue:
        for account in self.world.accounts():
            if account.templates.get(template_id) is not None:
                return account.templates
        raise KeyError(template_id)
