"""What a list of jobs is narrowed to: the same words in the page's URL, in its form and in SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlencode

from pgsync.dashboard.masking import is_secret
from pgsync.errors import InvalidArgument

__all__ = ["STATES", "JobFilter"]

STATES = (
    "available",
    "scheduled",
    "retryable",
    "waiting",
    "running",
    "completed",
    "discarded",
    "cancelled",
)
_LONGEST = 200
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(r"[0-9]{1,5}[smhd]")


class _Fields(Protocol):
    def getlist(self, key: str) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class JobFilter:
    """States (any of them); a queue, a task, a text, arguments and an age, all of which must fit.

    ``since`` is how long ago it was enqueued at most: 90s, 15m, 2h, 7d.
    """

    states: tuple[str, ...] = ()
    queue: str = ""
    task: str = ""
    text: str = ""
    args: tuple[tuple[str, str], ...] = ()
    since: str = ""

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
        args = []
        for each in _given(fields, "arg"):
            key, equals, value = each.partition("=")
            if not equals or not key.strip():
                raise InvalidArgument(f"an argument is given as key=value, not {each!r}")
            if is_secret(key):
                raise InvalidArgument(f"the values of {key.strip()!r} are hidden; filter by others")
            args.append((key.strip(), value.strip()))
        queue, task, text = (_one(fields, name) for name in ("queue", "task", "text"))
        since = _one(fields, "since")
        if since and not _AGE.fullmatch(since):
            raise InvalidArgument(f"since must be an age such as 90s, 15m, 2h or 7d, not {since!r}")
        return cls(states, queue, task, text, tuple(args), since)

    def as_json(self) -> dict[str, Any]:
        """The filter as pgsync.find_jobs takes it."""
        given: Mapping[str, Any] = {
            "states": list(self.states),
            "queue": self.queue,
            "task": self.task,
            "text": self.text,
            "args": dict(self.args),
            "since": self._earliest(),
        }
        return {name: value for name, value in given.items() if value}

    def pairs(self) -> list[tuple[str, str]]:
        """The filter as the fields of a form."""
        return [
            *(("state", state) for state in self.states),
            *((name, getattr(self, name)) for name in ("queue", "task", "text")),
            *(("arg", f"{key}={value}") for key, value in self.args),
            ("since", self.since),
        ]

    def _earliest(self) -> str:
        if not self.since:
            return ""
        number, unit = int(self.since[:-1]), _UNITS[self.since[-1]]
        return (datetime.now(UTC) - timedelta(**{unit: number})).isoformat()

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
