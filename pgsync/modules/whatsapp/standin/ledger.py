"""The log of all that the stand-in received, and what can be counted from it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pgsync.modules.whatsapp.standin.messages import digits

__all__ = ["Entry", "Ledger", "Message", "before_last_colon", "masked"]

_KEPT = 200_000
"""Entries and messages kept in memory; the counts are over everything."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and what it was answered.

    ``token`` is masked. ``status`` is the HTTP status, 0 where the connection was broken.
    ``faults`` are the kinds that were injected. ``message_id`` is set where a message was
    accepted, whatever the answer said.
    """

    number: int
    at: datetime
    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str
    status: int
    answer: Any
    faults: tuple[str, ...] = ()
    message_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry for the control interface."""
        return {**asdict(self), "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted message. ``to`` is digits only; ``template`` is empty for a plain text."""

    id: str
    to: str
    waba_id: str
    phone_number_id: str
    template: str
    callback_data: str | None
    status: str
    at: datetime


class Ledger:
    """What was received and accepted. Safe to use from several threads.

    ``campaign_of`` finds the campaign's part of ``biz_opaque_callback_data``; see
    :attr:`duplicate_sends`.
    """

    def __init__(self, campaign_of: Callable[[str], str]) -> None:
        self._campaign_of = campaign_of
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._number = 0
            self._entries: deque[Entry] = deque(maxlen=_KEPT)
            self._messages: dict[str, Message] = {}
            self._by_path: Counter[str] = Counter()
            self._by_recipient: Counter[str] = Counter()
            self._by_send: Counter[tuple[str, str, str]] = Counter()

    def record(self, **values: Any) -> None:
        """Log one request; the number and the time (UTC) are given here."""
        with self._lock:
            self._number += 1
            entry = Entry(number=self._number, at=datetime.now(UTC), **values)
            self._entries.append(entry)
            self._by_path[f"{entry.method} {entry.path}"] += 1

    def accept(self, message: Message) -> None:
        """Count an accepted message."""
        campaign = self._campaign_of(message.callback_data or "")
        with self._lock:
            self._messages[message.id] = message
            if len(self._messages) > _KEPT:
                del self._messages[next(iter(self._messages))]
            self._by_recipient[message.to] += 1
            self._by_send[message.to, message.template, campaign] += 1

    def entries(self, *, after: int = 0, method: str = "", path: str = "") -> list[Entry]:
        """Return the requests in order: after a number, of a method, with ``path`` in the path."""
        with self._lock:
            kept = list(self._entries)
        return [
            entry
            for entry in kept
            if entry.number > after
            and method in ("", entry.method)
            and (not path or path in entry.path)
        ]

    def messages(self, to: str | None = None) -> list[Message]:
        """Return the accepted messages in order, or those to one phone number."""
        with self._lock:
            kept = list(self._messages.values())
        return [message for message in kept if to is None or message.to == digits(to)]

    def message(self, message_id: str) -> Message:
        """Return one accepted message. Raises KeyError if there is none of this id."""
        with self._lock:
            return self._messages[message_id]

    @property
    def requests_by_path(self) -> dict[str, int]:
        """How many requests came, by ``METHOD /path``."""
        with self._lock:
            return dict(self._by_path)

    @property
    def accepted(self) -> dict[str, int]:
        """How many messages were accepted, by recipient (digits only)."""
        with self._lock:
            return dict(self._by_recipient)

    @property
    def duplicate_sends(self) -> dict[tuple[str, str, str], int]:
        """What was accepted more than once, with how often: (to, template name, campaign).

        The campaign is what ``campaign_of`` finds in the callback data; by default the part before
        the last colon, so that ``campaign:recipient``, ``campaign:recipient:attempt`` and a token
        of the sender's own all serve. Without callback data it is empty, and then a recipient who
        gets the same template in two campaigns is counted too.
        """
        with self._lock:
            return {send: times for send, times in self._by_send.items() if times > 1}

    def counts(self) -> dict[str, Any]:
        """Return all counts for the control interface."""
        return {
            "requests": sum(self.requests_by_path.values()),
            "requests_by_path": self.requests_by_path,
            "accepted": sum(self.accepted.values()),
            "recipients": len(self.accepted),
            "duplicate_sends": [
                {"to": to, "template": template, "campaign": campaign, "times": times}
                for (to, template, campaign), times in self.duplicate_sends.items()
            ],
        }


def before_last_colon(callback_data: str) -> str:
    """Return the callback data without its last part, or all of it where it has one part."""
    head, colon, _ = callback_data.rpartition(":")
    return head if colon else callback_data


def masked(token: str | None) -> str:
    """Return a token as the log shows it."""
    return f"...{token[-4:]}" if token and len(token) > 8 else "..." if token else ""
