"""Arguments that only workers can read: encrypted before they leave the process that enqueues.

Fernet (AES-128-CBC with HMAC-SHA256) of the library ``cryptography``, whose ``MultiFernet`` rotates
keys: the first encrypts, each may decrypt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from pgsync.database.json import from_json
from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.queues.carried import tagged, tags_in, without_carried

__all__ = [
    "SealedArguments",
    "is_sealed",
    "new_key",
    "open_all",
    "open_args",
    "reseal",
    "seal_text",
]

_MARK = "pgsync:sealed"
_VARIABLE = "PGSYNC_ARGS_KEYS"


class SealedArguments(PgsyncError):
    """The encrypted arguments of a job could not be opened: no key of this process fits.

    The attempt has failed and is tried again, perhaps by a worker that has the key.
    """


def is_sealed(args: dict[str, Any]) -> bool:
    """Whether these are encrypted arguments."""
    return _MARK in args and not without_carried(args).keys() - {_MARK}


def seal_text(text: str, tags: Sequence[str] = ()) -> str:
    """Arguments as JSON text, encrypted, as JSON text again; tags stay readable.

    Raises:
        InvalidArgument: if there is no key, or the library is missing.
    """
    return json.dumps(tagged({_MARK: _keys().encrypt(text.encode()).decode()}, tags))


def open_args(args: dict[str, Any]) -> dict[str, Any]:
    """The handler's arguments, opened where they are encrypted.

    Raises:
        SealedArguments: if no key of this process fits.
    """
    return without_carried(open_all(args))


def open_all(args: dict[str, Any]) -> dict[str, Any]:
    """As :func:`open_args`, with what travels with them.

    Raises:
        SealedArguments: if no key of this process fits.
    """
    if not is_sealed(args):
        return args
    opened: dict[str, Any] = from_json(_open(args[_MARK]))
    return opened


def reseal(args: dict[str, Any]) -> str:
    """Encrypted arguments under the first key, as JSON text.

    Raises:
        SealedArguments: if no key of this process fits.
    """
    return seal_text(_open(args[_MARK]).decode(), tags_in(args))


def new_key() -> str:
    """A key for ``PGSYNC_ARGS_KEYS``.

    Raises:
        InvalidArgument: if the library is missing.
    """
    return _fernet().generate_key().decode()  # type: ignore[no-any-return]


def _open(token: str) -> bytes:
    from cryptography.fernet import InvalidToken

    try:
        opened: bytes = _keys().decrypt(token.encode())
    except InvalidArgument as error:
        raise SealedArguments(f"the arguments are encrypted: {error}") from None
    except InvalidToken:
        raise SealedArguments(
            f"no key of {_VARIABLE} opens the arguments; put the key that encrypted them behind "
            "the others, and have the job tried again"
        ) from None
    return opened


def _fernet() -> Any:
    try:
        from cryptography.fernet import Fernet
    except ModuleNotFoundError:
        raise InvalidArgument(
            "encrypted arguments need the library cryptography: install the extra crypto"
        ) from None
    return Fernet


def _keys() -> Any:
    fernet = _fernet()
    from cryptography.fernet import MultiFernet

    given = [key.strip() for key in os.environ.get(_VARIABLE, "").split(",") if key.strip()]
    if not given:
        raise InvalidArgument(
            f"set {_VARIABLE} to one or more keys; `pgsync jobs new-key` makes one"
        )
    try:
        return MultiFernet([fernet(key) for key in given])
    except ValueError:
        # Without the error's own words: nothing of a key may reach a log.
        raise InvalidArgument(
            f"{_VARIABLE} has a key that is not 32 bytes in URL-safe base64, as `pgsync jobs "
            "new-key` makes them"
        ) from None
