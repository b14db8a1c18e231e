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

_HEAD = re.compile(r"\+[0-9]{3}")
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
    leading: str | None
    valid: str
    prefix: str | None


@dataclass(frozen=True, slots=True)
class _Dialling:
    code: str
    trunk: str | None
    abroad: re.Pattern[str] | None
    prefix: re.Pattern[str] | None
    lengths: frozenset[int]


class _Heads(dict[str, re.Pattern[str] | None]):
    """What is valid in E.164, by a plus and the three digits behind it; learnt as they come."""

    def __missing__(self, head: str) -> re.Pattern[str] | None:
        if len(head) != 4 or _HEAD.fullmatch(head) is None:
            return None
        code = _country_code(head)
        self[head] = None if code is None else _international(int(code))
        return self[head]


_HEADS = _Heads()


def read_international(text: str) -> str | None:
    """The text, if it is a valid number in E.164; :data:`INVALID`; or None: ask the library."""
    # Most numbers are valid, and one pattern says so.
    valid = _HEADS[text[:4]]
    if valid is not None and valid.fullmatch(text):
        return text
    if _PLAIN.fullmatch(text) is None:
        return None
    code = _country_code(text)
    if code is None:
        return INVALID
    national = text[len(code) + 1 :]
    if national.startswith("0"):
        return None
    prefix = _prefix(int(code))
    if prefix is not None and prefix.match(national):
        return None
    return INVALID


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
        return f"+{code}{digits}" if _national(int(code)).fullmatch(digits) else INVALID
    # Of some prefixes the library takes more, or puts something before; on islands the area's code.
    if not trunk or written[0] != trunk or any(written.groups()):
        return None
    national = digits.removeprefix(trunk)
    if len(national) not in dialling.lengths:
        return None
    if digits.startswith(code) and (trunk != code or (prefix and prefix.match(national))):
        return None
    if _DIGITS.fullmatch(national) is None or not _national(int(code)).fullmatch(national):
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
        re.compile(prefix) if (prefix := _region(metadata).prefix) else None,
        frozenset(metadata.general_desc.possible_length if metadata.general_desc else ()),
    )


def _valid(code: int) -> str:
    """As the library: the first region whose leading digits or patterns are met decides."""
    pattern = "(?!)"
    for region in reversed(_regions(code)):
        if region.leading is None:
            pattern = f"(?:(?:{region.valid})|{pattern})"
        else:
            led = f"(?:{region.leading})"
            pattern = f"(?:(?={led})(?:{region.valid})|(?!{led}){pattern})"
    return pattern


@cache
def _national(code: int) -> re.Pattern[str]:
    return re.compile(_valid(code))


@cache
def _international(code: int) -> re.Pattern[str]:
    prefix = _regions(code)[0].prefix or "(?!)"
    return re.compile(rf"\+(?=[0-9]{{6,15}}\Z){code}(?!0)(?!{prefix}){_valid(code)}")


@cache
def _prefix(code: int) -> re.Pattern[str] | None:
    prefix = _regions(code)[0].prefix
    return re.compile(prefix) if prefix else None


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
    return _Region(leading, valid, f"(?:{prefix})" if prefix else None)


def _pattern(description: PhoneNumberDesc | None) -> str | None:
    if description is None or not description.national_number_pattern:
        return None
    pattern = f"(?:{description.national_number_pattern})"
    if not description.possible_length:
        return pattern
    lengths = [length for length in description.possible_length if length > 0]
    sizes = "|".join(f"[0-9]{{{length}}}\\Z" for length in lengths)
    return f"(?:(?={sizes}){pattern})" if lengths else None
