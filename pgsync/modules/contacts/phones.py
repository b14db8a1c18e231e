"""Phone numbers to E.164, from what people and programs write."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.numbering import read_international, read_national

__all__ = ["check_region", "to_e164"]

# Marks that phones put around a copied number to fix its direction.
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SCHEME = re.compile(r"^(?:whatsapp|tel):|@(?:s\.whatsapp\.net|c\.us)$", re.IGNORECASE)
_FLOAT = re.compile(r"(\+?\d+)\.0+")
# What Excel makes of a long number. In most its last digits are lost, and it is refused.
_EXPONENT = re.compile(r"[+-]?(\d+)(?:[.,](\d*))?[eE]([+-]?\d+)")
_BARE = re.compile(r"[\d\s().\-/]*\d[\d\s().\-/]*")
_PUNCTUATION = re.compile(r"[\s().\-]+")
_LONGEST = 64


class _Digits(dict[int, str]):
    """Digits of all scripts, and the wide plus, to ASCII; learnt as they come."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        self[code] = str(int(letter)) if letter.isdecimal() else letter
        return self[code]


_DIGITS = _Digits({0xFF0B: "+"})


def check_region(region: str | None) -> str | None:
    """The region's code in capitals, or None.

    Raises:
        InvalidArgument: if there is no such region.
    """
    if region is None:
        return None
    code = region.strip().upper()
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidArgument(
            f"{region!r} is no region; give an ISO 3166 code of two letters, such as 'DE'"
        )
    return code


@lru_cache(maxsize=65_536)
def to_e164(text: str, region: str | None = None, *, international: bool = False) -> str | None:
    """The number in E.164 (``+4915123456789``), or None if the text is no valid phone number.

    A number without country code is taken to be of ``region``. With ``international``, as for a
    WhatsApp ID, digits without ``+`` are first taken to begin with the country code.
    """
    if text.startswith("+") and (plain := read_international(text)):
        return plain
    number = text.strip()
    if not number.isascii():
        number = _INVISIBLE.sub("", number).strip()
    if ":" in number or "@" in number:
        number = _SCHEME.sub("", number).strip()
    if not number or len(number) > _LONGEST:
        return None
    if ("e" in number or "E" in number) and (power := _EXPONENT.fullmatch(number)):
        whole, fraction, exponent = power[1], power[2] or "", power[3]
        if len(fraction) != int(exponent) or number.startswith("-"):
            return None
        number = whole + fraction
    if not number.isascii():
        number = number.translate(_DIGITS)
    if "." in number and (decimal := _FLOAT.fullmatch(number)):
        number = decimal[1]
    for candidate in _candidates(number, region, international):
        found = _plain(candidate, region)
        if found is None:
            found = _parse(candidate, region)
        if found:
            return found
    return None


def _candidates(number: str, region: str | None, international: bool) -> list[str]:
    """The readings of a number, the likeliest first."""
    if not _BARE.fullmatch(number):
        return [number]
    if number.startswith("00"):
        return [f"+{number[2:]}", number]
    if number.startswith(("0", "(")):
        return [number]
    # Own country code, own trunk prefix left out: the first is far the likelier slip.
    if region is not None:
        international |= number.startswith(str(phonenumbers.country_code_for_region(region)))
    return [f"+{number}", number] if international else [number, f"+{number}"]


def _plain(number: str, region: str | None) -> str | None:
    plain = _PUNCTUATION.sub("", number)
    if plain.startswith("+"):
        return read_international(plain)
    return read_national(plain, region) if region is not None else None


def _parse(number: str, region: str | None) -> str | None:
    try:
        parsed = phonenumbers.parse(number, region)
    except NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
