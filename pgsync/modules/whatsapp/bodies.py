"""What the Graph API's answers hold: read, bounded and checked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import requests

from pgsync.modules.whatsapp.errors import GraphInterrupted, GraphPagingError

__all__ = [
    "Sent",
    "TemplatePage",
    "flaw",
    "next_cursor",
    "parse",
    "read_body",
    "sent",
    "struck_out",
    "templates",
]

_LARGEST_BODY = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the API took; it must not be sent again, whatever ``status`` says.

    ``status`` is the API's word: accepted, held_for_quality_assessment or paused. ``wa_id`` is the
    recipient as WhatsApp knows it.
    """

    message_id: str
    status: str
    wa_id: str | None = None


@dataclass(frozen=True, slots=True)
class TemplatePage:
    """One page of a listing, as the API sent it. ``last`` marks a listing read to its end."""

    number: int
    templates: tuple[Mapping[str, Any], ...]
    last: bool


def read_body(response: requests.Response, seconds: float, token: str) -> bytes | None:
    """Return the whole body without the token, or None if it is larger than the bound."""
    deadline = time.monotonic() + seconds
    chunks: list[bytes] = []
    size = 0
    while chunk := response.raw.read1(65536, decode_content=True):
        size += len(chunk)
        if size > _LARGEST_BODY:
            return None
        if time.monotonic() > deadline:
            raise requests.ReadTimeout("the body took too long")
        chunks.append(chunk)
    return struck_out(b"".join(chunks), token)


def struck_out(body: bytes, token: str) -> bytes:
    """Return ``body`` without the token, which the API may echo in links and messages.

    Done before anything is read from it, so that no error, log or traceback can hold the token.
    """
    for form in (token, quote(token, safe=""), token.replace("/", "\\/")):
        body = body.replace(form.encode(), b"...")
    return body


def parse(body: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object in ``body``, or None where there is none."""
    if body is None:
        return None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def flaw(body: bytes | None) -> str:
    """Say what is wrong with a body that :func:`parse` could not use."""
    if body is None:
        return f"is larger than {_LARGEST_BODY} bytes"
    return "is not the JSON object that the API documents"


def templates(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the templates of one page's body."""
    data = body.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise GraphInterrupted("the template listing holds no list of objects in 'data'")
    return tuple(data)


def next_cursor(body: Mapping[str, Any]) -> str | None:
    """Return the cursor of the next page, or None at the end of the listing."""
    paging = body.get("paging")
    link = paging.get("next") if isinstance(paging, dict) else None
    if not isinstance(paging, dict) or not link:
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if not after and isinstance(link, str):
        after = "".join(parse_qs(urlsplit(link).query).get("after", [])[:1])
    if not isinstance(after, str) or not after:
        raise GraphPagingError("the templates have a next page, but no cursor leads to it")
    return after


def sent(answer: Mapping[str, Any]) -> Sent:
    """Read the answer to a send."""
    messages, contacts = answer.get("messages"), answer.get("contacts")
    message = messages[0] if isinstance(messages, list) and messages else None
    message_id = message.get("id") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(message_id, str) or not message_id:
        raise GraphInterrupted("the answer to the send names no message id", ambiguous=True)
    contact = contacts[0] if isinstance(contacts, list) and contacts else None
    wa_id = contact.get("wa_id") if isinstance(contact, dict) else None
    return Sent(message_id, str(message.get("message_status") or "accepted"), wa_id)
