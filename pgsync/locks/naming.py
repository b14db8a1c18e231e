"""Lock names: what the server can take, and names made from a function's arguments."""

from __future__ import annotations

import inspect
import os
import socket
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["NameTemplate", "check_name", "default_owner", "name_maker"]

_owner = (0, "")


def default_owner() -> str:
    """How this process calls itself: host and process id."""
    global _owner
    if _owner[0] != os.getpid():
        _owner = (os.getpid(), f"{socket.gethostname()}/{os.getpid()}")
    return _owner[1]


def check_name(name: str) -> str:
    """Return the name if the server can take it.

    Raises:
        InvalidArgument: if it is empty, over 1024 bytes in UTF-8, or not text that it can store.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument("a lock's name must be text that is not empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(
            "a lock's name must be Unicode text without lone surrogates"
        ) from None
    if size > 1024:
        raise InvalidArgument(f"a lock's name must have at most 1024 bytes, this has {size}")
    if "\0" in name:
        raise InvalidArgument("a lock's name must not contain NUL")
    return name


class NameTemplate:
    """A name with places for arguments, for example ``import:workspace:{workspace_id}``.

    ``whose`` says in errors what it belongs to.

    Raises:
        InvalidArgument: if it cannot be read, or names what is not a parameter.
    """

    def __init__(self, text: str, parameters: Sequence[str], whose: str) -> None:
        self._text = text
        self._whose = whose
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InvalidArgument(f"{whose} {text!r}: {error}") from None
        used = {name for _, name, _, _ in parts if name is not None}
        if unknown := used - set(parameters):
            raise InvalidArgument(
                f"{whose} {text!r} uses {sorted(unknown)}, which are not parameters of the "
                f"function ({', '.join(parameters) or 'none'})"
            )

    def fill(self, args: Mapping[str, Any]) -> str:
        """The name for these arguments; those that it does not use may be left out.

        Raises:
            InvalidArgument: if one that it uses is missing.
        """
        try:
            return self._text.format(**args)
        except (KeyError, IndexError) as error:
            raise InvalidArgument(f"{self._whose} {self._text!r} needs {error}") from None


def name_maker(text: str, function: Callable[..., Any]) -> Callable[..., str]:
    """What makes the lock's name for a call of the function, from the call's own arguments."""
    signature = inspect.signature(function)
    template = NameTemplate(text, list(signature.parameters), "the lock's name")

    def name_for(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return template.fill(bound.arguments)

    return name_for
