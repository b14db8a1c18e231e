"""The check of a message as the API makes it before it answers with a message id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["check_message", "digits"]

_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_UNFIT_TEXT = re.compile(r"[\n\t]| {5}")
_LONGEST_PARAMETER = 1024
_MEDIA = ("IMAGE", "VIDEO", "DOCUMENT", "LOCATION")


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
    given = content.get("components") or []
    if not isinstance(given, Sequence) or not all(isinstance(part, Mapping) for part in given):
        raise Refusal(132012, "components must be a list of objects")
    named = template["parameter_format"] == "NAMED"
    for component in template["components"]:
        kind = component["type"]
        if kind == "BODY":
            _check_text(component["text"], _parameters(given, "body"), named, "body")
        elif kind == "HEADER":
            _check_header(component, _parameters(given, "header"), named)
        elif kind == "BUTTONS":
            _check_buttons(component["buttons"], given)


def _parameters(given: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for part in given:
        if str(part.get("type", "")).lower() == kind:
            parameters = part.get("parameters") or []
            if not all(isinstance(parameter, Mapping) for parameter in parameters):
                raise Refusal(132012, f"{kind}: parameters must be objects")
            found.extend(parameters)
    return found


def _check_header(
    component: Mapping[str, Any], given: list[Mapping[str, Any]], named: bool
) -> None:
    if component["format"] not in _MEDIA:
        _check_text(component["text"], given, named, "header")
        return
    if len(given) != 1:
        raise _wrong_number("header", len(given), 1)
    expected = component["format"].lower()
    if given[0].get("type") != expected or not isinstance(given[0].get(expected), Mapping):
        raise Refusal(132012, f"header: Format mismatch, expected {component['format']}")


def _check_buttons(
    buttons: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]
) -> None:
    for index, button in enumerate(buttons):
        expected = len(_VARIABLE.findall(button.get("url", "")))
        parts = [
            part
            for part in given
            if str(part.get("type", "")).lower() == "button"
            and str(part.get("index")) == f"{index}"
        ]
        found = _parameters(parts, "button")
        if button["type"] == "URL" and len(found) != expected:
            raise _wrong_number(f"button at index {index}", len(found), expected)
        if button["type"] == "URL" and any(part.get("sub_type") != "url" for part in parts):
            raise Refusal(132012, f"button at index {index}: sub_type must be url")


def _check_text(text: str, given: list[Mapping[str, Any]], named: bool, where: str) -> None:
    variables = list(dict.fromkeys(_VARIABLE.findall(text)))
    if len(given) != len(variables):
        raise _wrong_number(where, len(given), len(variables))
    for parameter in given:
        value = parameter.get("text")
        if parameter.get("type") not in ("text", "currency", "date_time"):
            raise Refusal(132012, f"{where}: Format mismatch, expected TEXT")
        if parameter["type"] == "text" and (not isinstance(value, str) or not value):
            raise Refusal(131008, f"{where}: Parameter of type text is missing text value")
        if isinstance(value, str) and _UNFIT_TEXT.search(value):
            raise Refusal(132018, f"{where}: Param text cannot have new-line/tab characters")
        if isinstance(value, str) and len(value) > _LONGEST_PARAMETER:
            raise Refusal(132005, f"{where}: the text is too long")
    if named and {parameter.get("parameter_name") for parameter in given} != set(variables):
        raise Refusal(132012, f"{where}: parameter_name must name {', '.join(variables)}")


def _wrong_number(where: str, given: int, expected: int) -> Refusal:
    return Refusal(
        132000,
        f"{where}: number of localizable_params ({given}) does not match "
        f"the expected number of params ({expected})",
    )
