"""The bodies of the webhooks that the API sends, and their signature."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any

from pgsync.modules.whatsapp.standin.ledger import Message
from pgsync.modules.whatsapp.standin.problems import problem

__all__ = ["signature", "status_envelope", "template_envelope"]

_HREF = "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"


def signature(secret: str, body: bytes) -> str:
    """Return the value of ``X-Hub-Signature-256`` for a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def status_envelope(
    message: Message, status: str, *, display_number: str, code: int | None = None
) -> dict[str, Any]:
    """Return a webhook with one status of one message; ``code`` is the error of a failed one."""
    entry: dict[str, Any] = {
        "id": message.id,
        "status": status,
        "timestamp": str(int(time.time())),
        "recipient_id": message.to,
    }
    if message.callback_data is not None:
        entry["biz_opaque_callback_data"] = message.callback_data
    if status == "failed":
        known = problem(code if code is not None else 131026)
        entry["errors"] = [
            {
                "code": code if code is not None else 131026,
                "title": known.title,
                "message": known.title,
                "error_data": {"details": known.details or known.title},
                "href": _HREF,
            }
        ]
    else:
        entry["conversation"] = {"id": message.id[-32:], "origin": {"type": "marketing"}}
        entry["pricing"] = {"billable": True, "pricing_model": "PMP", "category": "marketing"}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": display_number,
            "phone_number_id": message.phone_number_id,
        },
        "statuses": [entry],
    }
    return _envelope(message.waba_id, "messages", value)


def template_envelope(
    waba_id: str, template: dict[str, Any], field: str, value: dict[str, Any]
) -> dict[str, Any]:
    """Return a webhook about a template; ``value`` is what ``field`` says beside its names."""
    about = {
        "message_template_id": int(template["id"]),
        "message_template_name": template["name"],
        "message_template_language": template["language"],
    }
    return _envelope(waba_id, field, {**about, **value})


def _envelope(waba_id: str, field: str, value: dict[str, Any]) -> dict[str, Any]:
    change = {"value": value, "field": field}
    entry = {"id": waba_id, "time": int(time.time()), "changes": [change]}
    return {"object": "whatsapp_business_account", "entry": [entry]}
