"""What travels with a job's arguments and is none of them: the trace that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["carried", "carrying", "without_carried"]

# No parameter of a handler can have this name. The SQL function unique_key passes it over too.
_MARK = "pgsync:trace"


def carrying(args: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments with the headers of a trace, which the handler is not given."""
    return {**args, _MARK: dict(headers)} if headers else args


def carried(args: Mapping[str, Any]) -> dict[str, str]:
    """The headers that travel with these arguments; none where there are none."""
    headers = args.get(_MARK)
    if not isinstance(headers, dict):
        return {}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def without_carried(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments alone."""
    if _MARK not in args:
        return args
    return {name: value for name, value in args.items() if name != _MARK}
