"""What travels with a job's arguments and is none of them: its tags, its trace, who asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["carried", "carrying", "check_tags", "tagged", "tags_in", "without_carried"]

# No parameter of a handler can have these names. The SQL function unique_key passes them over too.
_TRACE = "pgsync:trace"
_TAGS = "pgsync:tags"

_MOST_TAGS = 20
_LONGEST_TAG = 100


def carrying(args: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments with these headers besides those that they have; no handler is given them."""
    return {**args, _TRACE: {**carried(args), **headers}} if headers else args


def carried(args: Mapping[str, Any]) -> dict[str, str]:
    """The headers that travel with these arguments; none where there are none."""
    headers = args.get(_TRACE)
    if not isinstance(headers, dict):
        return {}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def tagged(args: dict[str, Any], tags: Iterable[str]) -> dict[str, Any]:
    """The arguments with tags, which the handler is not given."""
    return {**args, _TAGS: list(tags)} if tags else args


def tags_in(args: Mapping[str, Any]) -> tuple[str, ...]:
    """The tags that travel with these arguments; none where there are none."""
    tags = args.get(_TAGS)
    return tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()


def check_tags(tags: Any) -> tuple[str, ...]:
    """These tags, each once.

    Raises:
        InvalidArgument: if they are not at most 20 texts of 1 to 100 characters.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidArgument(f"tags must be a list of texts, not {tags!r}")
    given = list(tags)
    for tag in given:
        if not isinstance(tag, str) or not 1 <= len(tag) <= _LONGEST_TAG:
            raise InvalidArgument(f"a tag must be 1 to {_LONGEST_TAG} characters, not {tag!r}")
    given = list(dict.fromkeys(given))
    if len(given) > _MOST_TAGS:
        raise InvalidArgument(f"a job may have {_MOST_TAGS} tags at most, not {len(given)}")
    return tuple(given)


def without_carried(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments alone."""
    if _TRACE not in args and _TAGS not in args:
        return args
    return {name: value for name, value in args.items() if name not in (_TRACE, _TAGS)}
