"""The components of a message, one by one: what each needs, and how the API takes it filled.

The forms are those of Meta's Cloud API, as its guides of template messages show them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgsync.modules.whatsapp import slots
from pgsync.modules.whatsapp.slots import Rule, Slot

__all__ = [
    "VARIABLE",
    "Component",
    "Part",
    "Unfillable",
    "Values",
    "body",
    "button",
    "header",
    "offer",
]

Values = Mapping[str, str]
"""What fills the slots, by their names."""

Component = dict[str, Any]

VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MEDIA = ("IMAGE", "VIDEO", "DOCUMENT")
_NOTHING_TO_FILL = ("PHONE_NUMBER", "SPM", "VOICE_CALL")


@dataclass(frozen=True, slots=True)
class Part:
    """One component: its slots, and what it is when they are filled; None: it is left out."""

    slots: tuple[Slot, ...]
    fill: Callable[[Values], Component | None]


class Unfillable(Exception):
    """Nobody knows here how this component is filled; the text says what the template has."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A property of an object that the API takes, and the slot that fills it."""

    end: str
    name: str
    rule: Rule
    required: bool = True
    read: Callable[[str], Any] = str


def body(component: Mapping[str, Any], named: bool) -> Part:
    """The variables of a text, in its order."""
    names = [f"body.{name}" for name in _variables(str(component.get("text") or ""))]
    places = tuple(Slot(name, slots.TEXT, place=place) for place, name in enumerate(names))
    return Part(places, partial(_fill_body, names, named))


def _fill_body(names: Sequence[str], named: bool, values: Values) -> Component | None:
    further = [name for name in values if name.startswith("body.") and name not in names]
    filled = [_text(name, named, values[name]) for name in (*names, *further) if name in values]
    return {"type": "body", "parameters": filled} if filled else None


def _text(name: str, named: bool, value: str) -> dict[str, Any]:
    text = {"type": "text", "text": value}
    return {**text, "parameter_name": name.partition(".")[2]} if named else text


def _variables(text: str) -> list[str]:
    """The variables, each once, in the order in which the API takes them."""
    found = list(dict.fromkeys(VARIABLE.findall(text)))
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


_HEADERS = {
    "LOCATION": (
        _Field("latitude", "latitude", slots.LATITUDE),
        _Field("longitude", "longitude", slots.LONGITUDE),
        _Field("name", "name", slots.TEXT),
        _Field("address", "address", slots.TEXT),
    ),
    "PRODUCT": (
        _Field("product", "product_retailer_id", slots.PRODUCT),
        _Field("catalog", "catalog_id", slots.NUMBER),
    ),
}


def header(component: Mapping[str, Any], named: bool) -> Part | None:
    """A text with one variable, a medium, a place on a map or a product."""
    kind = str(component.get("format") or "TEXT").upper()
    if kind == "TEXT":
        variables = _variables(str(component.get("text") or ""))
        if not variables:
            return None
        return Part((Slot("header", slots.TEXT),), partial(_fill_text, variables[0], named))
    if kind in _MEDIA:
        file_name = Slot("header.filename", slots.FILE_NAME, required=False)
        further = (file_name,) if kind == "DOCUMENT" else ()
        return Part((Slot("header", slots.MEDIUM), *further), partial(_fill_medium, kind.lower()))
    if kind not in _HEADERS:
        raise Unfillable(f"has a header of format {kind[:50]}")
    return _object("header", _HEADERS[kind], {"type": "header"}, kind.lower())


def _fill_text(variable: str, named: bool, values: Values) -> Component | None:
    if "header" not in values:
        return None
    text = _text(f"header.{variable}", named, values["header"])
    return {"type": "header", "parameters": [text]}


def _fill_medium(kind: str, values: Values) -> Component | None:
    value = values.get("header")
    if value is None:
        return None
    medium = {"id" if value.isdecimal() else "link": value}
    if kind == "document" and "header.filename" in values:
        medium["filename"] = values["header.filename"]
    return {"type": "header", "parameters": [{"type": kind, kind: medium}]}


def offer(component: Mapping[str, Any]) -> Part | None:
    """The end of an offer, where the template shows one."""
    if not (component.get("limited_time_offer") or {}).get("has_expiration"):
        return None
    ends = _Field("expires", "expiration_time_ms", slots.MOMENT, read=_number)
    kind = "limited_time_offer"
    return _object("offer", (ends,), {"type": kind}, kind)


def _number(text: str) -> Any:
    return int(text) if text.isdecimal() else text


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # A number may be greater than JSON's readers bear.
    except (ValueError, RecursionError):
        return text
    return value


def _sections(text: str) -> list[dict[str, Any]]:
    titled = (section.partition(":") for section in text.split(";"))
    return [
        {
            "title": title.strip(),
            "product_items": [{"product_retailer_id": sku.strip()} for sku in skus.split(",")],
        }
        for title, _, skus in titled
    ]


# Documented as optional, and yet missed by the API where it is left out.
_THUMBNAIL = _Field("thumbnail", "thumbnail_product_retailer_id", slots.PRODUCT)

_ACTIONS = {
    "CATALOG": (_THUMBNAIL,),
    "FLOW": (
        _Field("token", "flow_token", slots.TOKEN, required=False),
        _Field("data", "flow_action_data", slots.OBJECT, required=False, read=_json),
    ),
    "MPM": (_THUMBNAIL, _Field("sections", "sections", slots.SECTIONS, read=_sections)),
}

_BUTTONS = {
    "QUICK_REPLY": ("quick_reply", "payload", slots.PAYLOAD, False),
    "COPY_CODE": ("copy_code", "coupon_code", slots.CODE, True),
    # The button of a one-time password is a link to the API, whatever it is called.
    "OTP": ("url", "text", slots.LINK_END, True),
    "URL": ("url", "text", slots.LINK_END, True),
}
"""By the button's type: its sub_type, its parameter, and whether that is required."""


def button(index: int, definition: Mapping[str, Any]) -> Part | None:
    """What a tap on a button does: the end of a link, a payload, a code, or an action."""
    kind = str(definition.get("type") or "URL").upper()
    name = f"button.{index}"
    if kind in _ACTIONS:
        fields = _ACTIONS[kind]
        if str(definition.get("flow_action") or "").upper() == "DATA_EXCHANGE":
            # The first screen's data comes from the business's own server then.
            fields = tuple(field for field in fields if field.end != "data")
        base = {"type": "button", "sub_type": kind.lower(), "index": str(index)}
        # Named even where nothing fills it, or the API refuses a flow.
        return _object(name, fields, base, "action", always=True)
    link = kind == "URL" and not VARIABLE.search(str(definition.get("url") or ""))
    if link or kind in _NOTHING_TO_FILL:
        return None
    if kind not in _BUTTONS:
        raise Unfillable(f"has a button of type {kind[:50]}")
    sub_type, parameter, rule, required = _BUTTONS[kind]
    slot = Slot(name, rule, required)
    return Part((slot,), partial(_fill_button, name, sub_type, parameter))


def _fill_button(name: str, sub_type: str, parameter: str, values: Values) -> Component | None:
    if name not in values:
        return None
    return {
        "type": "button",
        "sub_type": sub_type,
        "index": name.partition(".")[2],
        "parameters": [{"type": parameter, parameter: values[name]}],
    }


def _object(
    name: str, fields: Sequence[_Field], base: Component, kind: str, always: bool = False
) -> Part:
    """A component whose one parameter is an object; without a value it is left out, or bare."""
    places = tuple(Slot(f"{name}.{field.end}", field.rule, field.required) for field in fields)

    def fill(values: Values) -> Component | None:
        given = {
            field.name: field.read(values[slot.name])
            for field, slot in zip(fields, places, strict=True)
            if slot.name in values
        }
        if given:
            return {**base, "parameters": [{"type": kind, kind: given}]}
        return base if always else None

    return Part(places, fill)
