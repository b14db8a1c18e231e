"""What a handler logs of its attempt: the last lines, kept with it when it ends."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple

from pgsync.database.json import to_json

__all__ = ["AttemptLog", "LogLine"]

_MOST_LINES = 200
_LONGEST_LINE = 1_000


class LogLine(NamedTuple):
    """When, in ISO 8601 and UTC, and a text that the database can store."""

    at: str
    text: str

    @classmethod
    def now(cls, text: object) -> LogLine:
        """A line of this moment; what is too long is cut, what is no Unicode replaced."""
        said = str(text)
        if len(said) > _LONGEST_LINE:
            said = f"{said[:_LONGEST_LINE]}…"
        said = said.replace("\0", "\ufffd").encode(errors="replace").decode()
        return cls(datetime.now(UTC).isoformat(timespec="milliseconds"), said)


class AttemptLog:
    """The last 200 lines of an attempt, from any of its threads."""

    __slots__ = ("_lines", "_said")

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=_MOST_LINES)
        self._said = 0

    def add(self, line: LogLine) -> None:
        """Keep one more line."""
        self._lines.append(line)
        self._said += 1

    def as_json(self) -> str:
        """The lines, and how many were dropped before them."""
        lines = list(self._lines.copy())
        return to_json({"lines": lines, "dropped": max(0, self._said - len(lines))}, "the log")
