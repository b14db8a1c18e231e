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
_MEDIUM = {"id": r"[0-9]+", "link": r"https?://\S+"}
_SUB_TYPES = (
    *("BOOKING_CONFIRMATION", "CATALOG", "COPY_CODE", "FLOW", "MPM", "ORDER_DETAILS"),
    *("QUICK_REPLY", "REMINDER", "URL", "VOICE_CALL"),
)
_BUTTONS = {
    "URL": ("url", "text", r"\S{1,2000}", True),
    "OTP": ("url", "text", r"\S{1,2000}", True),
    "COPY_CODE": ("copy_code", "coupon_code", r"[0-9A-Za-z]{1,15}", True),
    "QUICK_REPLY": ("quick_reply", "payload", r".{1,256}", False),
}
"""By the button's type: its sub_type, its parameter's type and form, and whether it is required."""


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
    kinds = {component["type"] for component in template["components"]}
    if "HEADER" not in kinds and (unwanted := _parameters(given, "header")):
        raise _wrong_number("header", len(unwanted), 0)
    if "BUTTONS" not in kinds:
        _check_buttons([], given)
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
    medium = given[0].get(expected)
    if given[0].get("type") != expected or not isinstance(medium, Mapping):
        raise Refusal(132012, f"header: Format mismatch, expected {component['format']}")
    if expected != "location":
        _check_medium(expected, medium)


def _check_medium(kind: str, medium: Mapping[str, Any]) -> None:
    named_by = [key for key in ("id", "link") if medium.get(key)]
    if len(named_by) != 1:
        raise Refusal(131008, f"header: Parameter of type {kind} needs either an id or a link")
    if not re.fullmatch(_MEDIUM[named_by[0]], str(medium[named_by[0]])):
        raise Refusal(100, f"Param {kind}.{named_by[0]} is not valid.")
    if "filename" in medium and kind != "document":
        raise Refusal(100, f"Param {kind} has no filename.")


def _check_buttons(
    buttons: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]
) -> None:
    parts: dict[str, Mapping[str, Any]] = {}
    for number, part in enumerate(given):
        if str(part.get("type", "")).lower() != "button":
            continue
        if str(part.get("sub_type", "")).upper() not in _SUB_TYPES:
            raise Refusal(
                100,
                message=f"(#100) Param template['components'][{number}]['sub_type'] must be one of "
                f'{{{", ".join(_SUB_TYPES)}}} - got "{part.get("sub_type")}".',
            )
        if str(part.get("index")) not in map(str, range(len(buttons))):
            raise Refusal(100, f"buttons: there is no button at index {part.get('index')}")
        parts[str(part["index"])] = part
    for index, button in enumerate(buttons):
        _check_button(f"Button at index {index}", button, parts.get(str(index)))


def _check_button(where: str, button: Mapping[str, Any], part: Mapping[str, Any] | None) -> None:
    kind = button["type"]
    if kind == "URL" and not _VARIABLE.search(button.get("url", "")):
        kind = "link without a variable"
    if kind not in _BUTTONS:
        if part is not None:
            raise Refusal(
                100, f"buttons: {where} is of type {kind} and does not support parameters"
            )
        return
    sub_type, parameter, pattern, required = _BUTTONS[kind]
    found = _parameters([part], "button") if part is not None else []
    if not found and required:
        raise Refusal(131008, f"buttons: {where} of type {kind.title()} requires a parameter")
    if part is None:
        return
    if str(part["sub_type"]).lower() != sub_type:
        raise Refusal(132012, f"buttons: {where}: sub_type must be {sub_type}")
    if len(found) > 1:
        raise _wrong_number(where, len(found), 1)
    for each in found:
        if each.get("type") != parameter or not re.fullmatch(pattern, str(each.get(parameter))):
            raise Refusal(132012, f"buttons: {where}: Format mismatch, expected {parameter}")


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
