"""Faults on request: what goes wrong with which of the next requests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from typing import Any, Self

from pgsync.modules.whatsapp.standin.messages import digits

__all__ = ["KINDS", "Fault", "Faults", "Taken"]

_ANSWERS = frozenset({"error", "invalid_json", "truncated", "html", "reset"})
_PAGES = frozenset(
    {"empty_page", "short_page", "repeat_cursor", "next_without_cursor", "after_without_next"}
)
_STATUSES = frozenset({"held", "paused"})

KINDS = _ANSWERS | _PAGES | _STATUSES | {"slow"}


@dataclass(slots=True)
class Fault:
    """Something that goes wrong with the next ``times`` requests that fit (None: with all).

    Kinds:
        error: an error answer with ``code``, and ``subcode``, ``status``, ``details`` where given.
        invalid_json, truncated, html, reset: an answer that cannot be read (``html`` is a 502
            by default, and with ``location`` a redirect); reset closes without a byte.
        slow: the request is carried out at once, and its answer comes after ``seconds``.
        held, paused: a message is accepted as held_for_quality_assessment, or paused.
        empty_page, short_page, repeat_cursor, next_without_cursor, after_without_next: a page of
            templates that is empty but has a next one; has only one template, and a next page;
            leads back to itself; has a next page and no cursors; ends the listing too early.

    ``accept`` says that the request is carried out all the same, so that a reset with it is a
    message that was sent and whose sender cannot know.

    ``retry_after`` (seconds) and ``usage_minutes`` put the headers of a throttled answer on it.
    ``method``, ``path`` (a part of it) and ``to`` (a phone number) choose the requests.
    """

    kind: str
    times: int | None = 1
    method: str | None = None
    path: str | None = None
    to: str | None = None
    accept: bool = False
    code: int = 131000
    subcode: int | None = None
    status: int | None = None
    details: str = ""
    seconds: float = 1.0
    retry_after: float | None = None
    usage_minutes: int | None = None
    location: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is not one of {', '.join(sorted(KINDS))}")

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Build a fault from JSON. Raises ValueError for a name that no fault has."""
        unknown = set(values) - {each.name for each in fields(cls)}
        if unknown or "kind" not in values:
            raise ValueError(f"a fault needs 'kind' and knows no {sorted(unknown)}")
        return cls(**values)

    def fits(self, method: str, path: str, to: str | None) -> bool:
        """Return whether this request is one of those that the fault is meant for."""
        return (
            (self.method is None or self.method == method)
            and (self.path is None or self.path in path)
            and (self.to is None or (to is not None and digits(self.to) == digits(to)))
            and (self.kind not in _PAGES or path.endswith("/message_templates"))
            and (self.kind not in _STATUSES or path.endswith("/messages"))
        )


@dataclass(slots=True)
class Taken:
    """The faults of one request: at most one of each sort."""

    answer: Fault | None = None
    page: Fault | None = None
    status: Fault | None = None
    slow: Fault | None = None
    kinds: list[str] = field(default_factory=list)

    def add(self, fault: Fault) -> bool:
        """Take ``fault`` unless there is one of its sort; return whether it was taken."""
        sort = (
            "answer"
            if fault.kind in _ANSWERS
            else "page"
            if fault.kind in _PAGES
            else "status"
            if fault.kind in _STATUSES
            else "slow"
        )
        if getattr(self, sort) is not None:
            return False
        setattr(self, sort, fault)
        self.kinds.append(fault.kind)
        return True


class Faults:
    """The faults that wait for a request. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let ``fault`` happen, after those of its sort that wait already."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        """Return the faults that still wait for a request."""
        with self._lock:
            return list(self._waiting)

    def take(self, method: str, path: str, to: str | None) -> Taken:
        """Return the faults of one request and count them down."""
        taken = Taken()
        with self._lock:
            if not self._waiting:
                return taken
            for fault in self._waiting:
                if fault.fits(method, path, to) and taken.add(fault) and fault.times is not None:
                    fault.times -= 1
            self._waiting = [each for each in self._waiting if each.times is None or each.times > 0]
        return taken
