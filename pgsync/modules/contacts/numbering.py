"""A quick answer for digits, from the tables of ``phonenumbers``: exact, or none.

The library itself takes some 60 microseconds a number, most of it to find out how the number is
written. For plain digits that is known, and what remains is to match its country's patterns. Where
the library would take digits away or put some before, it is left to do so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.phonemetadata import PhoneNumberDesc

__all__ = ["INVALID", "read_international", "read_national"]

INVALID = ""
"""The answer for what is certainly no number; None is no answer."""

_PLAIN = re.compile(r"\+[1-9][0-9]{5,14}")
_DIGITS = re.compile(r"[1-9][0-9]{5,14}")
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


@dataclass(frozen=True, slots=True)
class _Dialling:
    code: str
    trunk: str | None
    abroad: re.Pattern[str] | None
    prefix: re.Pattern[str] | None
    lengths: frozenset[int]


def read_international(text: str) -> str | None:
    """The text, if it is a valid number in E.164; :data:`INVALID`; or None: ask the library."""
    if _PLAIN.fullmatch(text) is None:
        return None
    code = _country_code(text)
    if code is None:
        return INVALID
    national = text[len(code) + 1 :]
    if national.startswith("0"):
        return None
    prefix = _regions(int(code))[0].prefix
    if prefix is not None and prefix.match(national):
        return None
    return text if _is_valid(int(code), national) else INVALID


def read_national(digits: str, region: str) -> str | None:
    """A number of a region, with its trunk prefix or without, in E.164; INVALID; or None."""
    dialling = _dialling(region)
    if dialling is None or not digits.isdecimal():
        return None
    code, trunk, prefix = dialling.code, dialling.trunk, dialling.prefix
    if dialling.abroad is not None and dialling.abroad.match(digits):
        return None
    written = prefix.match(digits) if prefix is not None else None
    if written is None:
        # Nothing can be taken away, so that it is all there is of the number.
        if _DIGITS.fullmatch(digits) is None or digits.startswith(code):
            return None
        return f"+{code}{digits}" if _is_valid(int(code), digits) else INVALID
    # Of some prefixes the library takes more, or puts something before; on islands the area's code.
    if not trunk or written[0] != trunk or any(written.groups()):
        return None
    national = digits.removeprefix(trunk)
    if len(national) not in dialling.lengths:
        return None
    if digits.startswith(code) and (trunk != code or (prefix and prefix.match(national))):
        return None
    if _DIGITS.fullmatch(national) is None or not _is_valid(int(code), national):
        return None
    return f"+{code}{national}"


@cache
def _dialling(region: str) -> _Dialling | None:
    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None:
        return None
    abroad = metadata.international_prefix
    return _Dialling(
        str(metadata.country_code),
        metadata.national_prefix,
        re.compile(abroad) if abroad else None,
        _region(metadata).prefix,
        frozenset(metadata.general_desc.possible_length if metadata.general_desc else ()),
    )


def _is_valid(code: int, national: str) -> bool:
    """As the library: the first region whose leading digits or patterns are met decides."""
    regions = _regions(code)
    if len(regions) == 1:
        return regions[0].valid.fullmatch(national) is not None
    for region in regions:
        if region.leading is not None:
            if region.leading.match(national):
                return region.valid.fullmatch(national) is not None
        elif region.valid.fullmatch(national):
            return True
    return False


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
    pattern = f"(?:{description.national_number_pattern})"
    if not description.possible_length:
        return pattern
    lengths = [length for length in description.possible_length if length > 0]
    sizes = "|".join(f"[0-9]{{{length}}}\\Z" for length in lengths)
    return f"(?:(?={sizes}){pattern})" if lengths else None
