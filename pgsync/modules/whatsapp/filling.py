"""What a template has to be filled with, and the components of a message that fill it.

Each place to fill is a slot with a name, see :mod:`pgsync.modules.whatsapp.slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pgsync.database.json import to_json
from pgsync.modules.whatsapp import parts
from pgsync.modules.whatsapp.parts import VARIABLE, Component, Part, Unfillable, Values

__all__ = ["Filling", "Parameters"]

Parameters = Sequence[Any] | Mapping[str, Any]
"""What fills the slots of one message: the variables of the body in order, or all by slot."""


class Filling:
    """The slots of a template, as its connection's sync stored it.

    ``problems`` names what campaigns cannot fill.
    """

    def __init__(
        self, components: Sequence[Mapping[str, Any]], parameter_format: str | None = None
    ) -> None:
        self.problems: list[str] = []
        self._format = parameter_format
        self._body = ""
        self._cards: list[Filling] = []
        self._parts: list[Part] = []
        for component in components:
            self._add(component)
        self.slots = [slot for part in self._parts for slot in part.slots]

    def components(
        self, parameters: Parameters, constants: Mapping[str, Any] | None = None
    ) -> list[Component]:
        """The components of a message; what does not fit is left to the API to refuse.

        ``constants`` fill, by slot, what the parameters leave empty.
        """
        return self._filled(self._values(parameters, constants))

    def text(self, parameters: Parameters, constants: Mapping[str, Any] | None = None) -> str:
        """The body as it will read, and those of a carousel's cards, a line for each.

        Variables that nothing fills stay as they are.
        """
        return self._read(self._values(parameters, constants))

    def _read(self, values: Values) -> str:
        body = VARIABLE.sub(lambda m: values.get(f"body.{m[1]}", m[0]), self._body)
        cards = (
            f"[{index}] {card._read(_under(f'card.{index}.', values))}"
            for index, card in enumerate(self._cards)
        )
        return "\n".join([body, *cards])

    def _values(self, parameters: Parameters, constants: Mapping[str, Any] | None) -> Values:
        if not isinstance(parameters, Mapping):
            known = [slot.name for slot in self.slots if slot.place is not None]
            further = (f"body.{number}" for number in range(len(known) + 1, len(parameters) + 1))
            parameters = dict(zip([*known, *further], parameters, strict=False))
        return {**_as_texts(constants or {}), **_as_texts(parameters)}

    def _filled(self, values: Values) -> list[Component]:
        filled = (part.fill(values) for part in self._parts)
        return [component for component in filled if component is not None]

    def _add(self, component: Mapping[str, Any]) -> None:
        kind = str(component.get("type", "")).upper()
        named = self._format == "NAMED"
        if kind == "BODY":
            self._body = str(component.get("text") or "")
            self._try(parts.body, component, named)
        elif kind == "HEADER":
            self._try(parts.header, component, named)
        elif kind == "LIMITED_TIME_OFFER":
            self._try(parts.offer, component)
        elif kind == "BUTTONS":
            for index, button in enumerate(component.get("buttons") or ()):
                self._try(parts.button, index, button)
        elif kind == "CAROUSEL":
            self._add_cards(component.get("cards") or ())
        elif kind != "FOOTER":
            self.problems.append(f"has a component {kind[:50]}")

    def _try(self, make: Callable[..., Part | None], *of: Any) -> None:
        try:
            part = make(*of)
        except Unfillable as problem:
            self.problems.append(str(problem))
        else:
            if part is not None:
                self._parts.append(part)

    def _add_cards(self, cards: Iterable[Mapping[str, Any]]) -> None:
        """A carousel: each card is filled as a template of its own, under its number."""
        self._cards = [Filling(card.get("components") or (), self._format) for card in cards]
        if not self._cards:
            self.problems.append("has a carousel without cards")
        slots = tuple(
            replace(slot, name=f"card.{index}.{slot.name}", place=None)
            for index, card in enumerate(self._cards)
            for slot in card.slots
        )
        self._parts.append(Part(slots, self._fill_cards))
        for index, card in enumerate(self._cards):
            self.problems += [f"{problem} on card {index}" for problem in card.problems]

    def _fill_cards(self, values: Values) -> Component:
        cards = [
            {"card_index": index, "components": card._filled(_under(f"card.{index}.", values))}
            for index, card in enumerate(self._cards)
        ]
        return {"type": "carousel", "cards": cards}


def _under(prefix: str, values: Values) -> Values:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _as_texts(values: Mapping[str, Any]) -> Values:
    """Each as PostgreSQL has a value of JSON as text; the empty ones are left out."""
    return {
        name: value if isinstance(value, str) else to_json(value, name)
        for name, value in values.items()
        if value not in (None, "")
    }
