"""What the code that runs is about, so that its log lines can say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["current_fields", "log_fields"]

_fields: ContextVar[Mapping[str, str]] = ContextVar("pgsync_log_fields", default={})  # noqa: B039


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Have lines that are logged inside carry these fields, for those that format them."""
    before = _fields.get()
    _fields.set({**before, **fields})
    try:
        yield
    finally:
        # Not by a token: a generator may be closed in another context than it ran in.
        _fields.set(before)


def current_fields() -> Mapping[str, str]:
    """The fields of the caller's context."""
    return _fields.get()
