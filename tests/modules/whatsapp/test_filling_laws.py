"""What the rules of slots let through the stand-in takes, and no less than what they ask for."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.listing import BadTemplate, columns_of
from pgsync.modules.whatsapp.slots import Rule
from pgsync.modules.whatsapp.standin.components import check_components
from pgsync.modules.whatsapp.standin.problems import Refusal

HEADERS = ("TEXT", "IMAGE", "VIDEO", "DOCUMENT", "LOCATION", "PRODUCT")
BUTTONS = (
    *("QUICK_REPLY", "PHONE_NUMBER", "URL", "COPY_CODE", "OTP", "VOICE_CALL"),
    *("FLOW", "CATALOG", "MPM", "SPM"),
)


def _headers(named: bool) -> st.SearchStrategy[dict[str, Any]]:
    text = "For {{who}}" if named else "For {{1}}"
    return st.sampled_from(HEADERS).map(
        lambda kind: {"type": "HEADER", "format": kind, "text": text}
    )


def _bodies(named: bool) -> st.SearchStrategy[dict[str, Any]]:
    names = ["who", "day", "city"] if named else ["1", "2", "3"]
    texts = st.integers(0, 3).map(lambda count: " and ".join(f"{{{{{n}}}}}" for n in names[:count]))
    return texts.map(lambda text: {"type": "BODY", "text": text})


def _links(kind: str) -> dict[str, Any]:
    return {"type": kind, "url": "https://shop.example/{{1}}"} if kind == "URL" else {"type": kind}


_buttons = st.lists(st.sampled_from(BUTTONS).map(_links), max_size=3).map(
    lambda buttons: {"type": "BUTTONS", "buttons": buttons}
)
_offers = st.booleans().map(
    lambda ends: {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"has_expiration": ends}}
)


def _parts(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    optional = st.tuples(*(st.none() | part for part in parts))
    return optional.map(lambda some: [part for part in some if part is not None])


def _templates(named: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    card = _parts(_headers(named), _bodies(named), _buttons)
    cards = st.lists(card.map(lambda parts: {"components": parts}), min_size=1, max_size=3)
    carousel = cards.map(lambda some: {"type": "CAROUSEL", "cards": some})
    return _parts(_headers(named), _bodies(named), _offers, _buttons, carousel)


_objects = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)


@functools.cache
def _values(rule: Rule) -> st.SearchStrategy[str]:
    if rule.also == "object":
        return _objects.map(json.dumps)
    fit = st.from_regex(re.compile(rule.pattern), fullmatch=True)
    return fit.filter(lambda value: len(value) <= rule.longest)


@settings(max_examples=40)
@given(data=st.data(), named=st.booleans())
def test_what_the_rules_let_through_is_taken_and_nothing_less(data: Any, named: bool) -> None:
    template = data.draw(_templates(named))
    filling = Filling(template, "NAMED" if named else "POSITIONAL")
    assert filling.problems == []
    optional = st.booleans()
    values = {
        slot.name: data.draw(_values(slot.rule))
        for slot in filling.slots
        if slot.required or data.draw(optional)
    }
    check_components(template, filling.components(values), named)
    required = [slot.name for slot in filling.slots if slot.required]
    if required:
        missing = data.draw(st.sampled_from(required))
        less = {name: value for name, value in values.items() if name != missing}
        with pytest.raises(Refusal):
            check_components(template, filling.components(less), named)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "format", "text", "buttons", "cards", "components", "url"),
                    *("limited_time_offer", "flow_action"),
                ]
            ),
            inner | st.sampled_from(["BODY", "HEADER", "BUTTONS", "CAROUSEL", "FLOW"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(components=st.lists(_anything, max_size=3) | _anything)
def test_a_listed_template_is_refused_or_can_be_read(components: Any) -> None:
    listed = {"name": "a", "language": "de", "status": "APPROVED", "components": components}
    try:
        columns = columns_of(listed)
    except BadTemplate:
        return
    filling = Filling(columns["components"])
    assert isinstance(filling.text({}), str)
    assert isinstance(filling.components({}), list)
