"""A quick answer for numbers that are in E.164 already, from the tables of ``phonenumbers``.

The library itself takes some 60 microseconds a number, most of it to find out how the number is
written. For ``+`` and digits that is known, and what remains is to match its country's patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.phonemetadata import PhoneNumberDesc

__all__ = ["is_plain_valid", "national_to_plain"]

_PLAIN = re.compile(r"\+[1-9][0-9]{5,14}")
_KINDS = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "pager",
    "uan",
    "voicemail",
)


@dataclass(frozen=True, slots=True)
class _Region:
    leading: re.Pattern[str] | None
    valid: re.Pattern[str]
    prefix: re.Pattern[str] | None


def is_plain_valid(text: str) -> bool:
    """Whether the text is a valid number in E.164, letter for letter.

    False means "ask the library": it may be valid in a form that the library would change.
    """
    if _PLAIN.fullmatch(text) is None:
        return False
    code = _country_code(text)
    if code is None:
        return False
    national = text[len(code) + 1 :]
    if national.startswith("0"):
        return False
    for region in _regions(int(code)):
        if region.leading is not None:
            if region.leading.match(national):
                return _is_valid(region, national)
        elif region.valid.fullmatch(national):
            return _is_valid(region, national)
    return False


def national_to_plain(digits: str, region: str) -> str | None:
    """A number of a region, with its trunk prefix or without, in E.164; None: ask the library."""
    dialling = _dialling(region)
    if dialling is None:
        return None
    code, trunk, prefix = dialling
    national = digits.removeprefix(trunk) if trunk else digits
    # What the library would take away yet, or put before: on some islands the area's code.
    if prefix is not None and prefix.match(national):
        return None
    plain = code + national
    return plain if is_plain_valid(plain) else None


@cache
def _dialling(region: str) -> tuple[str, str | None, re.Pattern[str] | None] | None:
    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None:
        return None
    prefix = _region(metadata).prefix
    return f"+{metadata.country_code}", metadata.national_prefix, prefix


def _is_valid(region: _Region, national: str) -> bool:
    if region.valid.fullmatch(national) is None:
        return False
    return region.prefix is None or region.prefix.match(national) is None


def _country_code(text: str) -> str | None:
    for length in (1, 2, 3):
        if int(text[1 : length + 1]) in COUNTRY_CODE_TO_REGION_CODE:
            return text[1 : length + 1]
    return None


@cache
def _regions(code: int) -> tuple[_Region, ...]:
    found = []
    for name in COUNTRY_CODE_TO_REGION_CODE[code]:
        if name == "001":
            metadata = PhoneMetadata.metadata_for_nongeo_region(code, None)
        else:
            metadata = PhoneMetadata.metadata_for_region(name, None)
        if metadata is not None:
            found.append(_region(metadata))
    return tuple(found)


def _region(metadata: PhoneMetadata) -> _Region:
    kinds = [_pattern(getattr(metadata, kind)) for kind in _KINDS]
    general = _pattern(metadata.general_desc) or "(?!)"
    # Valid is what matches the general pattern and that of some kind, as in the library.
    valid = f"(?={general}\\Z)(?:{'|'.join(kind for kind in kinds if kind)})"
    leading, prefix = metadata.leading_digits, metadata.national_prefix_for_parsing
    return _Region(
        re.compile(leading) if leading else None,
        re.compile(valid),
        re.compile(f"(?:{prefix})") if prefix else None,
    )


def _pattern(description: PhoneNumberDesc | None) -> str | None:
    if description is None or not description.national_number_pattern:
        return None
    lengths = [length for length in description.possible_length if length > 0]
    sizes = "|".join(f"[0-9]{{{length}}}\\Z" for length in lengths)
    return f"(?:(?={sizes})(?:{description.national_number_pattern}))" if lengths else None
