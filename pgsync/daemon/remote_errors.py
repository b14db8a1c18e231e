"""Errors on their way from one process to another."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from pgsync.daemon.report import describe_error
from pgsync.database.words import error_text
from pgsync.errors import PgsyncError

__all__ = ["HandlerFailed", "pack", "unpack"]


class HandlerFailed(PgsyncError):
    """A handler in a process of its own failed with an error that cannot be sent as itself."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """An error whose class takes other arguments than those it keeps, so that pickle fails."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]

    def error(self) -> BaseException:
        made = self.kind.__new__(self.kind, *self.args)
        made.args = self.args
        made.__dict__.update(self.state)
        return made


def pack(error: BaseException) -> bytes:
    """The error and the text of its traceback; its words only, where it cannot be pickled."""
    trace = describe_error(error)["traceback"]
    for form in (error, _Parts(type(error), error.args, error.__dict__)):
        try:
            data = pickle.dumps((form, trace))
            _read(data)
        except Exception:  # noqa: BLE001, S112 - a handler's exception may be broken itself
            continue
        return data
    return pickle.dumps((HandlerFailed(error_text(error)), trace))


def unpack(data: bytes) -> BaseException:
    """The error, with the traceback of the other process as its cause's text."""
    try:
        return _read(data)
    except Exception as error:  # noqa: BLE001 - a class that only the other process can import
        return HandlerFailed(f"its error cannot be read here: {error_text(error)}")


def _read(data: bytes) -> BaseException:
    form, trace = pickle.loads(data)  # noqa: S301 - from a process of our own
    error: BaseException = form.error() if isinstance(form, _Parts) else form
    error.__cause__ = RemoteTraceback(trace)
    return error
