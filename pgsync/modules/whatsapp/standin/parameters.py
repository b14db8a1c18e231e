"""The check of single parameters of a message's components, wherever in the message they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["VARIABLE", "check_object", "check_text", "parameters_of", "the_one", "wrong_number"]

VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_UNFIT_TEXT = re.compile(r"[\n\t]| {5}")
_LONGEST_PARAMETER = 1024
_MEDIA = ("image", "video", "document")
_MEDIUM = {"id": r"[0-9]+", "link": r"https?://\S+"}
_DEGREES = r"-?[0-9]{1,3}(\.[0-9]+)?"
_PROPERTIES = {
    "location": {"latitude": _DEGREES, "longitude": _DEGREES, "name": ".+", "address": ".+"},
    "product": {"catalog_id": "[0-9]+", "product_retailer_id": ".+"},
}

Given = Mapping[str, Any]


def parameters_of(given: Sequence[Given], kind: str) -> list[Given]:
    """All parameters of the components of this type."""
    found: list[Given] = []
    for part in given:
        if str(part.get("type", "")).lower() == kind:
            parameters = part.get("parameters") or []
            if not all(isinstance(parameter, Mapping) for parameter in parameters):
                raise Refusal(132012, f"{kind}: parameters must be objects")
            found.extend(parameters)
    return found


def the_one(found: Sequence[Given], kind: str, where: str) -> Given:
    """The object of the only parameter, which is to be of this type."""
    if len(found) > 1:
        raise wrong_number(where, len(found), 1)
    only = found[0] if found else {}
    value = only.get(kind)
    if only.get("type") != kind or not isinstance(value, Mapping):
        received = str(only.get("type") or "unknown").upper()
        raise Refusal(
            132012, f"{where}: Format mismatch, expected {kind.upper()}, received {received}"
        )
    return value


def check_object(found: Sequence[Given], kind: str, where: str) -> None:
    """Check the only parameter: a medium, a place or a product."""
    value = the_one(found, kind, where)
    if kind in _MEDIA:
        _check_medium(kind, value, where)
    for name, pattern in _PROPERTIES.get(kind, {}).items():
        if value.get(name) in (None, ""):
            raise Refusal(131008, f"{where}: Parameter of type {kind} is missing {name}")
        if not re.fullmatch(pattern, str(value[name])):
            raise Refusal(131009, f"{where}: Parameter {name} of type {kind} is not valid")


def _check_medium(kind: str, medium: Given, where: str) -> None:
    named_by = [key for key in ("id", "link") if medium.get(key)]
    if len(named_by) != 1:
        raise Refusal(131008, f"{where}: Parameter of type {kind} needs either an id or a link")
    if not re.fullmatch(_MEDIUM[named_by[0]], str(medium[named_by[0]])):
        raise Refusal(100, f"Param {kind}.{named_by[0]} is not valid.")
    if "filename" in medium and kind != "document":
        raise Refusal(100, f"Param {kind} has no filename.")


def check_text(text: str, given: Sequence[Given], named: bool, where: str) -> None:
    """Check the values of a text's variables."""
    variables = list(dict.fromkeys(VARIABLE.findall(text)))
    if len(given) != len(variables):
        raise wrong_number(where, len(given), len(variables))
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


def wrong_number(where: str, given: int, expected: int) -> Refusal:
    """What the API says to more or fewer parameters than the template takes."""
    return Refusal(
        132000,
        f"{where}: number of localizable_params ({given}) does not match "
        f"the expected number of params ({expected})",
    )
