"""Names made from a function's arguments: ``import:workspace:{workspace_id}``."""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["NameTemplate", "name_maker"]


class NameTemplate:
    """A name with places for arguments, for example ``import:workspace:{workspace_id}``.

    ``whose`` says in errors what it belongs to. Without ``parameters`` it may name any argument.

    Raises:
        InvalidArgument: if it cannot be read, or names what is not a parameter.
    """

    def __init__(self, text: str, parameters: Sequence[str] | None, whose: str) -> None:
        self._text = text
        self._whose = whose
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InvalidArgument(f"{whose} {text!r}: {error}") from None
        used = {name for _, name, _, _ in parts if name is not None}
        if parameters is not None and (unknown := used - set(parameters)):
            raise InvalidArgument(
                f"{whose} {text!r} uses {sorted(unknown)}, which are not parameters of the "
                f"function ({', '.join(parameters) or 'none'})"
            )

    def fill(self, args: Mapping[str, Any]) -> str:
        """The name for these arguments; those that it does not use may be left out.

        Raises:
            InvalidArgument: if one that it uses is missing, or cannot be written as it says.
        """
        try:
            return self._text.format_map(args)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise InvalidArgument(
                f"{self._whose} {self._text!r} needs an argument: {error}"
            ) from None


def name_maker(text: str, function: Callable[..., Any], whose: str) -> Callable[..., str]:
    """What makes the name for a call of the function, from the call's own arguments."""
    signature = inspect.signature(function)
    template = NameTemplate(text, list(signature.parameters), whose)

    def name_for(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return template.fill(bound.arguments)

    return name_for
