"""What the stand-in answers to a call when nothing goes wrong."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from pgsync.modules.whatsapp.standin.catalogue import FIELDS
from pgsync.modules.whatsapp.standin.faults import Taken
from pgsync.modules.whatsapp.standin.ledger import Message
from pgsync.modules.whatsapp.standin.messages import check_message, digits
from pgsync.modules.whatsapp.standin.problems import Refusal
from pgsync.modules.whatsapp.standin.world import Account, World

__all__ = ["Call", "Reply", "carry_out"]

_PATH = re.compile(r"/v[0-9]+\.[0-9]+/(?P<node>[0-9]+)(?:/(?P<edge>\w+))?")
_MOST_PER_PAGE = 1000
_BASIC_FIELDS = ("name", "parameter_format", "components", "language", "status", "category", "id")
_FILTERS = ("name", "language", "status", "category")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``origin`` is the scheme and host that the client used."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    token: str | None
    origin: str

    @property
    def to(self) -> str | None:
        """The recipient of a message, as the client wrote it."""
        to = self.body.get("to") if isinstance(self.body, dict) else None
        return str(to) if to else None


@dataclass(slots=True)
class Reply:
    """An answer. ``message`` is the message that was accepted, if it was one."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    message: Message | None = None


def carry_out(world: World, accounts: list[Account], call: Call, faults: Taken) -> Reply:
    """Do what the call asks for. Raises Refusal where the API would answer with an error."""
    matched = _PATH.fullmatch(call.path)
    if matched is None:
        raise Refusal(2500, message=f"(#2500) Unknown path components: {call.path}")
    node, edge = matched["node"], matched["edge"]
    for account in accounts:
        act = _edge(world, account, call, faults, node, edge)
        if act is not None:
            keys = {"token": call.token or "", "account": account.waba_id}
            if edge == "messages":
                keys |= {"number": node, "pair": f"{node}:{digits(call.to)}"}
            headers = world.throttles.hit(keys, account.waba_id)
            reply = act()
            reply.headers |= headers
            return reply
    raise Refusal(
        100,
        subcode=33,
        message=f"Unsupported {call.method.lower()} request. Object with ID '{node}' does not "
        "exist, cannot be loaded due to missing permissions, or does not support this operation",
    )


def _edge(
    world: World, account: Account, call: Call, faults: Taken, node: str, edge: str | None
) -> Callable[[], Reply] | None:
    """Return what answers this call for this account, or None if the node is not its own."""
    if node == account.waba_id and call.method == "GET":
        if edge == "message_templates":
            return lambda: _list_templates(account, call, faults)
        if edge == "phone_numbers":
            return lambda: Reply(
                200, {"data": [_number(account, each) for each in account.numbers]}
            )
        if edge is None:
            return lambda: Reply(200, {"id": node, "name": "Stand-in", "currency": "EUR"})
    if node in account.numbers:
        if edge == "messages" and call.method == "POST":
            return lambda: _send(world, account, node, call, faults)
        if edge is None and call.method == "GET":
            return lambda: Reply(200, _number(account, node))
    template = account.templates.get(node) if edge is None and call.method == "GET" else None
    return None if template is None else lambda: Reply(200, template)


def _number(account: Account, phone_number_id: str) -> dict[str, Any]:
    return {
        "id": phone_number_id,
        "display_phone_number": account.numbers[phone_number_id],
        "verified_name": "Stand-in",
        "quality_rating": "GREEN",
        "whatsapp_business_manager_messaging_limit": "TIER_100K",
    }


def _send(world: World, account: Account, number: str, call: Call, faults: Taken) -> Reply:
    check_message(call.body, account.templates, account.numbers[number])
    to = digits(call.to)
    status = "accepted"
    if faults.status is not None:
        held = faults.status.kind == "held"
        status = "held_for_quality_assessment" if held else "paused"
    content = call.body.get("template")
    message = Message(
        id="wamid." + base64.b64encode(to.encode() + secrets.token_bytes(18)).decode(),
        to=to,
        waba_id=account.waba_id,
        phone_number_id=number,
        template=content["name"] if isinstance(content, dict) else "",
        callback_data=call.body.get("biz_opaque_callback_data"),
        status=status,
        at=datetime.now(UTC),
    )
    world.ledger.accept(message)
    body = {
        "messaging_product": "whatsapp",
        "contacts": [{"input": call.to, "wa_id": to}],
        "messages": [{"id": message.id, "message_status": status}],
    }
    return Reply(200, body, message=message)


def _list_templates(account: Account, call: Call, faults: Taken) -> Reply:
    fields = _fields(call.query.get("fields"))
    limit = _limit(call.query.get("limit", "25"))
    position = _position(call.query.get("after"))
    fault = faults.page.kind if faults.page is not None else None
    taken = {"short_page": min(limit, 1), "empty_page": 0}.get(fault or "", limit)
    filters = {name: call.query[name] for name in _FILTERS if name in call.query}
    listing = account.templates.after(position, taken, filters)
    data = [{name: row[name] for name in fields if name in row} for row in listing.templates]
    after = call.query.get("after", _cursor(0)) if fault == "repeat_cursor" else None
    # A page that holds nothing leads on too: its cursor is a new one for the same position.
    after = after or _cursor(listing.last, "" if data else secrets.token_hex(4))
    body: dict[str, Any] = {"data": data}
    more = listing.more or fault in ("repeat_cursor", "next_without_cursor")
    if fault == "after_without_next":
        more = False
    if data or more:
        body["paging"] = {"cursors": {"before": _cursor(listing.first), "after": after}}
    if more:
        # As the real API has it, the link holds the token.
        query = {**call.query, "access_token": call.token or "", "limit": limit, "after": after}
        if fault == "next_without_cursor":
            del query["after"], body["paging"]["cursors"]
        body["paging"]["next"] = f"{call.origin}{call.path}?{urlencode(query)}"
    if "summary" in call.query:
        body["summary"] = _summary(account, call.query["summary"])
    return Reply(200, body)


def _summary(account: Account, names: str) -> dict[str, Any]:
    count = len(account.templates)
    known = {
        "total_count": count,
        "message_template_count": count,
        "message_template_limit": 6000,
        "are_translations_complete": True,
    }
    return {name: known[name] for name in names.split(",") if name in known}


def _fields(value: str | None) -> tuple[str, ...]:
    if not value:
        return _BASIC_FIELDS
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in FIELDS:
            raise Refusal(
                100,
                message=f"(#100) Tried accessing nonexistent field ({name}) on node type "
                "(WhatsAppBusinessHSM)",
            )
    return (*names, "id") if "id" not in names else names


def _limit(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise Refusal(100, message="(#100) Param limit must be a positive integer")
    return min(int(value), _MOST_PER_PAGE)


def _cursor(position: int, mark: str = "") -> str:
    return base64.urlsafe_b64encode(f"template:{position}:{mark}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> int:
    if not cursor:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        return int(text.split(":")[1])
    except (IndexError, ValueError):
        raise Refusal(100, message="(#100) Invalid cursor for the given page") from None
