"""A template as the Graph API lists it, checked and in our own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgsync.errors import PgsyncError

__all__ = ["BadTemplate", "columns_of", "remote_id_of"]


class BadTemplate(PgsyncError):
    """The API's listing holds a template that cannot be understood."""


def remote_id_of(listed: Mapping[str, Any]) -> str:
    """The template's id at the API; empty where it has none."""
    value = listed.get("id")
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def columns_of(listed: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a listed template.

    Raises:
        BadTemplate: if something is missing or of another kind than documented.
    """
    components = listed.get("components") or []
    quality = listed.get("quality_score")
    reason = listed.get("rejected_reason")
    _check_objects(components, "components")
    if quality is not None and not isinstance(quality, dict):
        raise BadTemplate("its quality_score is not an object")
    return {
        "name": _text(listed, "name"),
        "language": _text(listed, "language"),
        "status": _text(listed, "status"),
        "category": listed.get("category"),
        "components": components,
        "parameter_format": listed.get("parameter_format"),
        "quality_score": quality,
        # The API says "NONE" of a template that was not rejected.
        "rejected_reason": None if reason in (None, "", "NONE") else str(reason),
    }


def _text(listed: Mapping[str, Any], name: str) -> str:
    value = listed.get(name)
    if not isinstance(value, str) or not value:
        raise BadTemplate(f"it has no {name}")
    return value


def _check_objects(values: Any, what: str) -> None:
    """Components, and what a component holds, are lists of objects."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadTemplate(f"its {what} are not a list of objects")
    for value in values:
        for inner in ("buttons", "cards", "components"):
            if value.get(inner) is not None:
                _check_objects(value[inner], inner)
        if not isinstance(value.get("limited_time_offer") or {}, dict):
            raise BadTemplate("its limited_time_offer is not an object")
