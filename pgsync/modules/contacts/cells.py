"""The text of one cell: cleaned on the way in, guarded against formulas on the way out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "clean",
    "guard_formula",
    "join_tags",
    "read_cells",
    "split_tags",
    "split_values",
    "unguard_formula",
]

_PACKED = ":::"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\ufeff]")
_LINE_END = re.compile(r"\r\n?")
_TAG_END = re.compile(r":::|[,;|\n]")
_QUOTED_TAG = re.compile(r'\s*"((?:[^"]|"")+)"\s*(?::::|[,;|\n]|\Z)')
_TAG_TO_QUOTE = re.compile(r':::|[,;|\n"]|\A\* ')
# What begins so is a formula to a spreadsheet, in some languages with wide signs too. A cell may
# begin in the middle of ours: where the list separator is ";", a comma file is split at each ";"
# and line end within it. Apostrophes are counted in, so that adding one and taking one away are
# exact opposites.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_AHEAD = rf"(?:^(?={{0}}'*[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])(?={{0}}'*[{_SIGNS}]))"
_FORMULA = re.compile(_AHEAD.format(""))
_GUARDED = re.compile(_AHEAD.format("'") + "'")
# Most texts have nothing like it. That is seen ten times as fast, by a pattern that begins with
# what can be looked for.
_LIKE_FORMULA = re.compile(rf"[;\t\r\n]'*[{_SIGNS}]")
_LIKE_FORMULA_AHEAD = re.compile(rf"'*[{_SIGNS}\t\r\n]")
_LIKE_GUARDED = re.compile(rf"''*[{_SIGNS}\t\r\n]")


def clean(text: str) -> str | None:
    """The text without what no database or spreadsheet takes, and without outer space.

    Control characters and lone surrogates are dropped, line ends become ``\\n``, letters are
    composed (NFC). None where nothing is left: a blank.
    """
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return unicodedata.normalize("NFC", text).strip() or None


def read_cells(cells: Sequence[str]) -> list[str | None]:
    """What the cells of a column hold: clean, the guard against formulas taken away."""
    # One look at all of them costs what one at a few does, and most columns are plain.
    text = "\n".join(cells)
    if _is_plain(text.replace("\n", " ")) and not _is_guarded(text):
        return [cell.strip() or None for cell in cells]
    return [_read_cell(cell) for cell in cells]


def _read_cell(cell: str) -> str | None:
    text = unguard_formula(cell)
    return (text.strip() or None) if _is_plain(text) else clean(text)


def _is_plain(text: str) -> bool:
    """Whether :func:`clean` would take nothing away but outer space."""
    return text.isprintable() and (text.isascii() or unicodedata.is_normalized("NFC", text))


def split_values(text: str) -> list[str]:
    """The values that Google Contacts packs into one cell with ``:::``."""
    if _PACKED not in text:
        return [text]
    return [value.strip() for value in text.split(_PACKED) if value.strip()]


def split_tags(texts: Iterable[str | None]) -> tuple[str, ...]:
    """The tags in these cells, separated by ``, ; |``, line ends or ``:::``, each once.

    One in double quotes, as of :func:`join_tags`, may have these in it.
    """
    tags: dict[str, None] = {}
    for text in texts:
        if not text:
            continue
        for tag in _tags_in(text):
            if tag:
                tags.setdefault(tag)
    return tuple(tags)


def _tags_in(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        if quoted := _QUOTED_TAG.match(text, at):
            at = quoted.end()
            yield " ".join(quoted[1].replace('""', '"').split())
        else:
            end = _TAG_END.search(text, at)
            tag = text[at : end.start() if end else None]
            at = end.end() if end else len(text)
            # Google marks its own groups with an asterisk.
            yield tag.strip().removeprefix("* ").strip()


def join_tags(tags: Iterable[str]) -> str:
    """One cell of which :func:`split_tags` makes these tags again."""
    return "; ".join(map(_quote_tag, tags))


def _quote_tag(tag: str) -> str:
    return '"' + tag.replace('"', '""') + '"' if _TAG_TO_QUOTE.search(tag) else tag


def guard_formula(text: str) -> str:
    """The text with an apostrophe before all that a spreadsheet would take for a formula."""
    if _LIKE_FORMULA_AHEAD.match(text) or _LIKE_FORMULA.search(text):
        return _FORMULA.sub("'", text)
    return text


def unguard_formula(text: str) -> str:
    """What :func:`guard_formula` was given; other text is left as it is."""
    return _GUARDED.sub("", text) if _is_guarded(text) else text


def _is_guarded(text: str) -> bool:
    return _LIKE_GUARDED.search(text) is not None and _GUARDED.search(text) is not None
