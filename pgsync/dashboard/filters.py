"""What a list of jobs is narrowed to: the same words in the page's URL, in its form and in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Protocol
from urllib.parse import urlencode

from pgsync.errors import InvalidArgument
from pgsync.masking import is_secret
from pgsync.queues import STATES
from pgsync.queues.finding import key_and_value, moment_or_age

__all__ = ["JobFilter"]

_LONGEST = 200
_MOST_ATTEMPTS = 32767


class _Fields(Protocol):
    def getlist(self, key: str) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class JobFilter:
    """States (any of them), and what must all fit: a queue, a task, tags, a text, arguments, times.

    ``since`` and ``until`` are when it was enqueued, each a moment in UTC or so long ago: 90s, 15m,
    2h, 7d, 1w. ``attempts`` is how many have begun at least.
    """

    states: tuple[str, ...] = ()
    queue: str = ""
    task: str = ""
    tags: tuple[str, ...] = ()
    text: str = ""
    args: tuple[tuple[str, str], ...] = ()
    attempts: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, fields: _Fields) -> JobFilter:
        """What a query string or a form says.

        Raises:
            InvalidArgument: for an unknown state, an argument that is no ``key=value``, or one
                whose value is hidden: trying values would be a way to read it.
        """
        states = tuple(dict.fromkeys(_given(fields, "state")))
        if unknown := set(states) - set(STATES):
            raise InvalidArgument(f"no state of a job: {', '.join(sorted(unknown))}")
        args = [key_and_value(each) for each in _given(fields, "arg")]
        for key, _ in args:
            if is_secret(key):
                raise InvalidArgument(f"the values of {key!r} are hidden; filter by others")
        one = {
            name: _one(fields, name)
            for name in ("queue", "task", "text", "attempts", "since", "until")
        }
        for name in ("since", "until"):
            if one[name]:
                moment_or_age(one[name], UTC)
        if one["attempts"] and not _is_count(one["attempts"]):
            raise InvalidArgument(f"attempts must be a number, not {one['attempts']!r}")
        tags = tuple(dict.fromkeys(_given(fields, "tag")))
        return cls(states=states, args=tuple(args), tags=tags, **one)

    def as_json(self) -> dict[str, Any]:
        """The filter as pgsync.find_jobs takes it."""
        given: Mapping[str, Any] = {
            "states": list(self.states),
            "queue": self.queue,
            "task": self.task,
            "tags": list(self.tags),
            "text": self.text,
            "args": dict(self.args),
            "attempts": int(self.attempts or 0),
            "since": self._moment(self.since),
            "until": self._moment(self.until),
        }
        return {name: value for name, value in given.items() if value}

    def pairs(self) -> list[tuple[str, str]]:
        """The filter as the fields of a form."""
        return [
            *(("state", state) for state in self.states),
            *((name, getattr(self, name)) for name in ("queue", "task")),
            *(("tag", tag) for tag in self.tags),
            ("text", self.text),
            *(("arg", f"{key}={value}") for key, value in self.args),
            *((name, getattr(self, name)) for name in ("attempts", "since", "until")),
        ]

    def chips(self) -> list[tuple[str, str, str]]:
        """Each field that is given: its name, its value, and the query string without it."""
        given = [pair for pair in self.pairs() if pair[1]]
        return [
            (name, value, f"?{urlencode(given[:n] + given[n + 1 :])}")
            for n, (name, value) in enumerate(given)
        ]

    @staticmethod
    def _moment(text: str) -> str:
        return moment_or_age(text, UTC).isoformat() if text else ""

    def query(self, **more: Any) -> str:
        """The filter as a query string, with fields added or (``state=None``) left out."""
        pairs = [(key, value) for key, value in self.pairs() if value and key not in more]
        pairs += [(key, str(value)) for key, value in more.items() if value is not None]
        return f"?{urlencode(pairs)}"


def _given(fields: _Fields, name: str) -> list[str]:
    values = [value.strip() for value in fields.getlist(name) if isinstance(value, str)]
    for value in values:
        if len(value) > _LONGEST or "\0" in value:
            raise InvalidArgument(f"{name} must have at most {_LONGEST} characters, none of them 0")
    return [value for value in values if value]


def _one(fields: _Fields, name: str) -> str:
    return next(iter(_given(fields, name)), "")


def _is_count(text: str) -> bool:
    return text.isdecimal() and text.isascii() and int(text) <= _MOST_ATTEMPTS
