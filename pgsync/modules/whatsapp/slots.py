"""The places of a template that are filled: their names, and how a value for each must be.

A slot is named by its component, and where that needs more than one value by what it is for:
``header`` is a text or a medium, ``header.latitude`` is one of four of a place on a map. Those of a
carousel's card have its number before them: ``card.0.header``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pgsync.errors import InvalidArgument

__all__ = [
    "CODE",
    "FILE_NAME",
    "LATITUDE",
    "LINK_END",
    "LONGITUDE",
    "MEDIUM",
    "MOMENT",
    "NUMBER",
    "OBJECT",
    "PAYLOAD",
    "PRODUCT",
    "SECTIONS",
    "TEXT",
    "TOKEN",
    "Rule",
    "Slot",
    "check_slots",
]

_SLOT = re.compile(
    r"(card\.[0-9]\.)?"
    r"(body\.\w{1,100}"
    r"|header(\.(filename|latitude|longitude|name|address|product|catalog))?"
    r"|button\.[0-9](\.(token|data|thumbnail|sections))?)"
    r"|offer\.expires"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a value must be: by a regular expression of PostgreSQL, and not longer than that.

    ``also`` is what no such expression can tell: that it is a JSON object, or a time to come.
    """

    pattern: str
    longest: int
    words: str
    also: Literal["object", "future"] | None = None


# The API refuses blank texts, breaks, tabs and long runs of blanks.
TEXT = Rule(r"(?!\s*$)(?!.*([\n\r\t]| {5})).*", 1024, "text of 1 to 1024 characters in one line")
MEDIUM = Rule(r"https?://\S+|[0-9]{1,32}", 2048, "a link or the id of an uploaded medium")
FILE_NAME = Rule(r"[^/\\\n\r\t]+", 240, "a file's name")
LATITUDE = Rule(
    r"-?(?:[0-8]?[0-9](?:\.[0-9]+)?|90(?:\.0+)?)", 30, "degrees from -90 to 90, like 52.5163"
)
LONGITUDE = Rule(
    r"-?(?:(?:1[0-7][0-9]|[0-9]?[0-9])(?:\.[0-9]+)?|180(?:\.0+)?)",
    30,
    "degrees from -180 to 180, like 13.3777",
)
LINK_END = Rule(r"\S+", 2000, "the end of a link, without blanks")
PAYLOAD = Rule(r".*\S.*", 256, "text of 1 to 256 characters")
CODE = Rule(r"[0-9A-Za-z]+", 15, "a code of 1 to 15 letters and digits")
TOKEN = Rule(r".*\S.*", 1024, "text of 1 to 1024 characters")
OBJECT = Rule(r".*", 8192, "a JSON object of up to 8192 characters", also="object")
# So many digits from 2001 to 2286: who gives seconds is told.
MOMENT = Rule(
    r"[1-9][0-9]{12}", 13, "a time to come in milliseconds since 1970, 13 digits", also="future"
)
NUMBER = Rule(r"[0-9]{1,32}", 32, "an id of digits")
PRODUCT = Rule(r"\S+", 100, "a product's id (SKU), without blanks")

_LIST = r"[^\s,;:][^,;:\n\r\t]{0,23}: *[^\s,;:]+(?:, *[^\s,;:]+)*"
SECTIONS = Rule(
    # Of n products n - 1 are followed by one of these.
    rf"(?!(?:[^,;]*[,;]){{30}}){_LIST}(?:; *{_LIST}){{0,9}}",
    8192,
    "up to 10 sections of 30 products in all, like 'New: sku1, sku2; Popular: sku3', "
    "their titles of 1 to 24 characters",
)


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
                "button.NUMBER (from 0), offer.expires, parts of a header or button "
                "(header.latitude, button.0.token), and those of a card (card.0.header)"
            )
