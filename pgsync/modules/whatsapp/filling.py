"""What a template has to be filled with, and the components of a message that fill it.

Each place to fill is a slot with a name: ``body.1`` or ``body.first_name`` are variables of the
body, ``header`` is the variable, or the medium, of the header (``header.filename`` may name a
document), ``button.0`` is what the first button needs: the end of its link, its payload, its code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["Filling", "Parameters", "Rule", "Slot", "check_slots"]

Parameters = Sequence[Any] | Mapping[str, Any]
"""What fills the slots of one message: the variables of the body in order, or all by slot."""

_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_SLOT = re.compile(r"body\.\w{1,100}|header|header\.filename|button\.[0-9]")
_MEDIA = ("IMAGE", "VIDEO", "DOCUMENT")
_NOTHING_TO_FILL = ("PHONE_NUMBER", "VOICE_CALL")


@dataclass(frozen=True, slots=True)
class Rule:
    """How a value must be: by a regular expression of PostgreSQL, and not longer than that."""

    pattern: str
    longest: int
    words: str


# The API refuses blank texts, breaks, tabs and long runs of blanks.
_TEXT = Rule(r"(?!\s*$)(?!.*([\n\r\t]| {5})).*", 1024, "text of 1 to 1024 characters in one line")
_MEDIUM = Rule(r"https?://\S+|[0-9]{1,32}", 2048, "a link or the id of an uploaded medium")
_FILE_NAME = Rule(r"[^/\\\n\r\t]+", 240, "a file's name")
_LINK_END = Rule(r"\S+", 2000, "the end of a link, without blanks")
_PAYLOAD = Rule(r".*\S.*", 256, "text of 1 to 256 characters")
_CODE = Rule(r"[0-9A-Za-z]+", 15, "a code of 1 to 15 letters and digits")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place to fill. ``place`` is the position of a variable of the body, from 0."""

    name: str
    rule: Rule
    required: bool = True
    place: int | None = None


def check_slots(names: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise InvalidArgument if one of them cannot be the name of a slot."""
    for name in names:
        if not isinstance(name, str) or not _SLOT.fullmatch(name):
            raise InvalidArgument(
                f"a template has no slot {str(name)[:50]!r}; slots are body.VARIABLE, header, "
                "header.filename and button.NUMBER (from 0)"
            )


class Filling:
    """The slots of a template, as its connection's sync stored it.

    ``problems`` names what campaigns cannot fill.
    """

    def __init__(
        self, components: Sequence[Mapping[str, Any]], parameter_format: str | None = None
    ) -> None:
        self.slots: list[Slot] = []
        self.problems: list[str] = []
        self._named = parameter_format == "NAMED"
        self._body = ""
        self._parts: list[Callable[[Mapping[str, str]], dict[str, Any] | None]] = []
        for component in components:
            kind = str(component.get("type", "")).upper()
            if kind == "BODY":
                self._add_body(str(component.get("text") or ""))
            elif kind == "HEADER":
                self._add_header(component)
            elif kind == "BUTTONS":
                for index, button in enumerate(component.get("buttons") or ()):
                    self._add_button(index, button)
            elif kind != "FOOTER":
                self.problems.append(f"has a component {kind[:50]}")

    def components(
        self, parameters: Parameters, constants: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The components of a message; what does not fit is left to the API to refuse.

        ``constants`` fill, by slot, what the parameters leave empty.
        """
        values = self._values(parameters, constants)
        return [part for part in (make(values) for make in self._parts) if part is not None]

    def text(self, parameters: Parameters, constants: Mapping[str, str] | None = None) -> str:
        """The body as it will read; variables that nothing fills stay as they are."""
        values = self._values(parameters, constants)
        return _VARIABLE.sub(lambda m: values.get(f"body.{m[1]}", m[0]), self._body)

    def _values(
        self, parameters: Parameters, constants: Mapping[str, str] | None
    ) -> dict[str, str]:
        if not isinstance(parameters, Mapping):
            known = [slot.name for slot in self.slots if slot.place is not None]
            further = (f"body.{number}" for number in range(len(known) + 1, len(parameters) + 1))
            parameters = dict(zip([*known, *further], parameters, strict=False))
        given = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
        return {**(constants or {}), **given}

    def _add_body(self, text: str) -> None:
        self._body = text
        names = [f"body.{name}" for name in _variables(text)]
        self.slots += [Slot(name, _TEXT, place=place) for place, name in enumerate(names)]
        self._parts.append(partial(self._fill_body, names))

    def _fill_body(self, names: Sequence[str], values: Mapping[str, str]) -> dict[str, Any] | None:
        further = [name for name in values if name.startswith("body.") and name not in names]
        filled = [self._text(name, values[name]) for name in (*names, *further) if name in values]
        return {"type": "body", "parameters": filled} if filled else None

    def _text(self, name: str, value: str) -> dict[str, Any]:
        text = {"type": "text", "text": value}
        return {**text, "parameter_name": name.partition(".")[2]} if self._named else text

    def _add_header(self, component: Mapping[str, Any]) -> None:
        kind = str(component.get("format") or "TEXT").upper()
        if kind in _MEDIA:
            self.slots.append(Slot("header", _MEDIUM))
            if kind == "DOCUMENT":
                self.slots.append(Slot("header.filename", _FILE_NAME, required=False))
            self._parts.append(partial(_fill_medium, kind.lower()))
        elif kind != "TEXT":
            self.problems.append(f"has a header of format {kind[:50]}")
        else:
            for name in _variables(str(component.get("text") or ""))[:1]:
                self.slots.append(Slot("header", _TEXT))
                self._parts.append(partial(self._fill_header, name))

    def _fill_header(self, name: str, values: Mapping[str, str]) -> dict[str, Any] | None:
        if "header" not in values:
            return None
        text = self._text(f"header.{name}", values["header"])
        return {"type": "header", "parameters": [text]}

    def _add_button(self, index: int, button: Mapping[str, Any]) -> None:
        kind = str(button.get("type") or "URL").upper()
        name = f"button.{index}"
        if kind == "QUICK_REPLY":
            self._add_fill(Slot(name, _PAYLOAD, required=False), "quick_reply", "payload")
        elif kind == "COPY_CODE":
            self._add_fill(Slot(name, _CODE), "copy_code", "coupon_code")
        # The button of a one-time password is a link to the API, whatever it is called.
        elif kind == "OTP" or _VARIABLE.search(str(button.get("url") or "")):
            self._add_fill(Slot(name, _LINK_END), "url", "text")
        elif kind != "URL" and kind not in _NOTHING_TO_FILL:
            self.problems.append(f"has a button of type {kind[:50]}")

    def _add_fill(self, slot: Slot, sub_type: str, parameter: str) -> None:
        self.slots.append(slot)
        self._parts.append(partial(_fill_button, slot.name, sub_type, parameter))


def _variables(text: str) -> list[str]:
    """The variables, each once, in the order in which the API takes them."""
    found = list(dict.fromkeys(_VARIABLE.findall(text)))
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def _fill_medium(kind: str, values: Mapping[str, str]) -> dict[str, Any] | None:
    value = values.get("header")
    if value is None:
        return None
    medium = {"id" if value.isdecimal() else "link": value}
    if kind == "document" and "header.filename" in values:
        medium["filename"] = values["header.filename"]
    return {"type": "header", "parameters": [{"type": kind, kind: medium}]}


def _fill_button(
    name: str, sub_type: str, parameter: str, values: Mapping[str, str]
) -> dict[str, Any] | None:
    if name not in values:
        return None
    return {
        "type": "button",
        "sub_type": sub_type,
        "index": name.partition(".")[2],
        "parameters": [{"type": parameter, parameter: values[name]}],
    }
