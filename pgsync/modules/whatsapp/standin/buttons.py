"""The check of what a message gives the buttons of its template, or of one card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pgsync.modules.whatsapp.standin.parameters import (
    VARIABLE,
    parameters_of,
    the_one,
    wrong_number,
)
from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["check_buttons"]

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

_ACTIONS = ("CATALOG", "FLOW", "MPM")
_MOST_SECTIONS, _MOST_PRODUCTS, _LONGEST_TITLE = 10, 30, 24


def check_buttons(
    buttons: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]], where: str = ""
) -> None:
    """Return if these components fill the buttons, else raise the Refusal."""
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
            raise Refusal(100, f"{where}buttons: there is no button at index {part.get('index')}")
        parts[str(part["index"])] = part
    for index, button in enumerate(buttons):
        _check_button(f"{where}buttons: Button at index {index}", button, parts.get(str(index)))


def _check_button(where: str, button: Mapping[str, Any], part: Mapping[str, Any] | None) -> None:
    kind = button["type"]
    if kind == "URL" and not VARIABLE.search(button.get("url", "")):
        kind = "link without a variable"
    if kind in _ACTIONS:
        _check_action(where, kind, part)
        return
    if kind not in _BUTTONS:
        if part is not None:
            raise Refusal(100, f"{where} is of type {kind} and does not support parameters")
        return
    sub_type, parameter, pattern, required = _BUTTONS[kind]
    found = parameters_of([part], "button") if part is not None else []
    if not found and required:
        raise _requires(where, kind)
    if part is None:
        return
    _check_sub_type(where, part, sub_type)
    if len(found) > 1:
        raise wrong_number(where, len(found), 1)
    for each in found:
        if each.get("type") != parameter or not re.fullmatch(pattern, str(each.get(parameter))):
            raise Refusal(132012, f"{where}: Format mismatch, expected {parameter}")


def _check_sub_type(where: str, part: Mapping[str, Any], sub_type: str) -> None:
    if str(part["sub_type"]).lower() != sub_type:
        raise Refusal(132012, f"{where}: sub_type must be {sub_type}")


def _requires(where: str, kind: str) -> Refusal:
    return Refusal(131008, f"{where} of type {kind.title()} requires a parameter")


def _check_action(where: str, kind: str, part: Mapping[str, Any] | None) -> None:
    if part is None:
        # As clients report it: a flow is to be named even where nothing is given to it.
        if kind == "FLOW":
            raise Refusal(131009, f"{where} of type {kind} is not among the components")
        raise _requires(where, kind)
    _check_sub_type(where, part, kind.lower())
    found = parameters_of([part], "button")
    if not found and kind == "FLOW":
        return
    if not found:
        raise _requires(where, kind)
    action = the_one(found, "action", where)
    if kind == "FLOW":
        _check_flow(where, action)
    elif not action.get("thumbnail_product_retailer_id"):
        raise Refusal(131008, f"{where}: thumbnail_product_retailer_id is missing")
    if kind == "MPM":
        _check_sections(where, action.get("sections"))


def _check_flow(where: str, action: Mapping[str, Any]) -> None:
    for name, kind in (("flow_token", str), ("flow_action_data", Mapping)):
        if action.get(name) is not None and not isinstance(action[name], kind):
            raise Refusal(100, f"{where}: Param {name} is of a wrong type")


def _check_sections(where: str, sections: Any) -> None:
    if not sections:
        raise Refusal(131008, f"{where}: sections are missing")
    products = 0
    for section in _objects(where, sections):
        title, items = section.get("title"), _objects(where, section.get("product_items") or ())
        if not title or len(str(title)) > _LONGEST_TITLE:
            raise Refusal(131009, f"{where}: a section needs a title of up to 24 characters")
        if not items or not all(item.get("product_retailer_id") for item in items):
            raise Refusal(131009, f"{where}: section {title} needs products")
        products += len(items)
    if len(sections) > _MOST_SECTIONS or products > _MOST_PRODUCTS:
        raise Refusal(131009, f"{where}: at most 10 sections and 30 products")


def _objects(where: str, value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
        raise Refusal(100, f"{where}: Param sections is of a wrong type")
    return value
