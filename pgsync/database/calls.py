"""What is to be asked of the database, apart from how one waits for the answer.

A :class:`Call` is one SQL statement that returns one row, with its parameters and the way to read
that row; a :class:`Listing` is one that returns many. A plan (:data:`Steps`) is a generator that
yields calls, sleeps and foreign work, and returns its result. All are written once; the blocking
and the asyncio executor (``pool.py``) each drive them in their own way of waiting. The idea is
psycopg 3's, whose protocol is a set of generators that yield what they wait for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, LiteralString, TypeAlias, TypeVar

__all__ = [
    "Call",
    "Copy",
    "Invoke",
    "Listing",
    "Prepared",
    "Row",
    "Sleep",
    "Step",
    "Steps",
    "first",
    "in_utc",
    "moment",
    "nothing",
    "scalar",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Row: TypeAlias = tuple[Any, ...]

_MOST_AT_ONCE = 4_096


# Calls and invocations are made all day long: to make one that is frozen takes eight times as long.
@dataclass(slots=True)
class Call(Generic[T_co]):
    """One statement that returns one row.

    ``statement`` has psycopg's named placeholders and never a value spliced in; ``read`` turns the
    row into the caller's type.
    """

    statement: LiteralString
    parameters: Mapping[str, Any]
    read: Callable[[Row], T_co]

    def __iter__(self) -> Generator[Call[T_co], Any, T_co]:
        """Ask for this call inside a plan: ``answer = yield from call``."""
        answer: T_co = yield self
        return answer


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """One statement that returns any number of rows, read one by one into a list.

    With ``binary`` the server sends its values in their binary form, which is quicker to read.
    """

    statement: LiteralString
    parameters: Mapping[str, Any]
    read: Callable[[Row], T_co]
    binary: bool = False

    def __iter__(self) -> Generator[Listing[T_co], Any, list[T_co]]:
        """Ask for this listing inside a plan: ``answers = yield from listing``."""
        answer: list[T_co] = yield self
        return answer


@dataclass(slots=True)
class Prepared(Generic[T_co]):
    """A statement that a session prepares once, under a name.

    It goes by libpq's own calls (``prepared.py``): psycopg's cursor and its conversions would take
    as long as the server does. ``statement`` has the placeholders ``$1``, ``$2``; the parameters
    are in their binary form, and so are the columns of the rows that ``read`` gets.

    The answer is None where there is no row, where the server refused the statement, and where the
    session prepares nothing: then ask by a :class:`Call`, which tells the reason.

    ``behind`` is sent right behind it, for a transaction of its own that follows; what becomes of
    that nobody is told.
    """

    name: LiteralString
    statement: LiteralString
    parameters: Sequence[bytes]
    read: Callable[[Sequence[Sequence[bytes]]], T_co]
    behind: Prepared[Any] | None = None

    @property
    def goes_at_once(self) -> bool:
        """Whether any socket takes its parameters at once: one that does not makes it wait."""
        return sum(map(len, self.parameters)) <= _MOST_AT_ONCE

    def __iter__(self) -> Generator[Prepared[T_co], Any, T_co | None]:
        """Ask for it inside a plan: ``answer = yield from prepared``."""
        answer: T_co | None = yield self
        return answer


@dataclass(frozen=True, slots=True)
class Copy:
    """Rows for ``COPY ... FROM STDIN``, in its text format, in pieces of many rows.

    The server takes one while the next is asked for, so that other work may be done there. An error
    there would be one of the transaction.
    """

    statement: LiteralString
    rows: Iterable[str]

    def __iter__(self) -> Generator[Copy, Any, None]:
        """Copy the rows inside a plan: ``yield from copy``."""
        yield self


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause of ``seconds`` inside a plan."""

    seconds: float

    def __iter__(self) -> Generator[Sleep, Any, None]:
        """Pause inside a plan: ``yield from Sleep(0.5)``."""
        yield self


@dataclass(slots=True)
class Invoke(Generic[T]):
    """Work outside the database inside a plan, in the manner of each face.

    The blocking executor calls ``blocking()``; the asyncio one awaits ``awaitable()``.
    """

    blocking: Callable[[], T]
    awaitable: Callable[[], Awaitable[T]]

    def __iter__(self) -> Generator[Invoke[T], Any, T]:
        """Do the work inside a plan: ``result = yield from Invoke(f, g)``."""
        answer: T = yield self
        return answer


Step: TypeAlias = Call[Any] | Listing[Any] | Prepared[Any] | Copy | Sleep | Invoke[Any]
Steps: TypeAlias = Generator[Step, Any, T]


def scalar(row: Row) -> Any:
    """Read the only column of a row."""
    return row[0]


def nothing(_row: Row) -> None:
    """Read nothing: the call is made for its effect."""


def moment(row: Row) -> Any:
    """Read the only column of a row: a time, in UTC, or null."""
    return in_utc(row)[0]


def first(answers: Sequence[T]) -> T | None:
    """The answer of a listing that has one at most."""
    return answers[0] if answers else None


def in_utc(row: Row) -> Row:
    """The row with its times in UTC: psycopg gives them in the session's zone, whichever it is."""
    return tuple(value.astimezone(UTC) if isinstance(value, datetime) else value for value in row)
