"""The check of a message as the API makes it before it answers with a message id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.components import check_components
from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["check_message", "digits"]


def digits(phone: object) -> str:
    """Return the digits of a phone number, which is how WhatsApp names a recipient."""
    return re.sub(r"\D", "", str(phone))


def check_message(payload: Any, catalogue: Catalogue, own_number: str) -> None:
    """Return if the API would take this message; else raise the Refusal it would answer with."""
    if not isinstance(payload, Mapping):
        raise Refusal(100, "The body must be a JSON object.")
    if payload.get("messaging_product") != "whatsapp":
        raise _missing("messaging_product")
    recipient = payload.get("to")
    if not recipient:
        raise _missing("to")
    if not 7 <= len(digits(recipient)) <= 15:
        raise Refusal(131009, "Parameter 'to' is not a phone number.")
    if digits(recipient) == digits(own_number):
        raise Refusal(131021)
    data = payload.get("biz_opaque_callback_data")
    if data is not None and (not isinstance(data, str) or len(data) > 512):
        raise Refusal(100, "Param biz_opaque_callback_data must be at most 512 characters long.")
    kind = payload.get("type", "text")
    if kind == "template":
        _check_template(payload.get("template"), catalogue)
    elif kind == "text":
        text = payload.get("text")
        if not isinstance(text, Mapping) or not text.get("body"):
            raise Refusal(131008, "Required parameter 'text.body' is missing.")
    else:
        raise Refusal(131051, f"Message type {kind} is not supported by this stand-in.")


def _missing(name: str) -> Refusal:
    return Refusal(100, message=f"(#100) The parameter {name} is required.")


def _check_template(content: Any, catalogue: Catalogue) -> None:
    content = content if isinstance(content, Mapping) else {}
    language = content.get("language")
    code = language.get("code") if isinstance(language, Mapping) else None
    name = content.get("name")
    if not name or not code:
        raise Refusal(131008, "Required parameters 'template.name' and 'language.code'.")
    template = catalogue.find(str(name), str(code))
    status = template["status"] if template else None
    if status == "PAUSED":
        raise Refusal(132015)
    if status == "DISABLED":
        raise Refusal(132016)
    if template is None or status != "APPROVED":
        raise Refusal(132001, f"template name ({name}) does not exist in {code}")
    check_components(
        template["components"],
        content.get("components") or (),
        named=template["parameter_format"] == "NAMED",
    )
