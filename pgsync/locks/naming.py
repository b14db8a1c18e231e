"""Lock names: what the server can take."""

from __future__ import annotations

import os
import socket

from pgsync.errors import InvalidArgument

__all__ = ["check_name", "default_owner"]

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
