"""The check of a message's components beside those of its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgsync.modules.whatsapp.standin.buttons import check_buttons
from pgsync.modules.whatsapp.standin.parameters import (
    check_object,
    check_text,
    parameters_of,
    the_one,
    wrong_number,
)
from pgsync.modules.whatsapp.standin.problems import Refusal

__all__ = ["check_components"]

_OBJECTS = ("IMAGE", "VIDEO", "DOCUMENT", "LOCATION", "PRODUCT")

Part = Mapping[str, Any]


def check_components(components: Sequence[Part], given: Any, named: bool, where: str = "") -> None:
    """Return if these fill the template, or the card that ``where`` names; else raise a Refusal."""
    if not isinstance(given, Sequence) or not all(isinstance(part, Mapping) for part in given):
        raise Refusal(132012, f"{where}components must be a list of objects")
    by_kind = {component["type"]: component for component in components}
    _check_body(by_kind.get("BODY"), given, named, where)
    _check_header(by_kind.get("HEADER"), given, named, where)
    _check_offer(by_kind.get("LIMITED_TIME_OFFER"), given, where)
    check_buttons(by_kind.get("BUTTONS", {}).get("buttons", ()), given, where)
    _check_carousel(by_kind.get("CAROUSEL"), given, named, where)


def _check_body(component: Part | None, given: Sequence[Part], named: bool, where: str) -> None:
    text = "" if component is None else component["text"]
    check_text(text, parameters_of(given, "body"), named, f"{where}body")


def _check_header(component: Part | None, given: Sequence[Part], named: bool, where: str) -> None:
    found = parameters_of(given, "header")
    if component is not None and component["format"] in _OBJECTS:
        check_object(found, component["format"].lower(), f"{where}header")
        return
    text = "" if component is None else component["text"]
    check_text(text, found, named, f"{where}header")


def _check_offer(component: Part | None, given: Sequence[Part], where: str) -> None:
    kind = "limited_time_offer"
    found = parameters_of(given, kind)
    if component is None or not component[kind].get("has_expiration"):
        if found:
            raise wrong_number(f"{where}{kind}", len(found), 0)
        return
    ends = the_one(found, kind, f"{where}{kind}").get("expiration_time_ms")
    if ends is None:
        raise Refusal(131008, f"{where}{kind}: expiration_time_ms is missing")
    if not isinstance(ends, int) or ends <= 0:
        raise Refusal(100, f"{where}Param expiration_time_ms must be an integer.")


def _check_carousel(component: Part | None, given: Sequence[Part], named: bool, where: str) -> None:
    carousels = [part for part in given if str(part.get("type", "")).lower() == "carousel"]
    cards = [card for part in carousels for card in part.get("cards") or ()]
    expected = [] if component is None else component["cards"]
    # The API counts the cards, and says so in words about a header.
    if len(cards) != len(expected):
        raise Refusal(132012, f"{where}carousel: {len(cards)} cards of {len(expected)}")
    numbered = {card.get("card_index"): card for card in cards if isinstance(card, Mapping)}
    for index, card in enumerate(expected):
        if index not in numbered:
            raise Refusal(132012, f"{where}carousel: there is no card of card_index {index}")
        parts = numbered[index].get("components") or ()
        check_components(card["components"], parts, named, f"{where}card {index}: ")
