"""What is to be asked of the database, apart from how one waits for the answer.

A :class:`Call` is one SQL statement that returns one row, with its parameters and the way to read
that row. A :class:`Plan` is a generator that yields calls, sleeps and foreign work, and returns
its result. Both are written once; the synchronous and the asyncio executor (``pool.py``) each
drive them in their own way of waiting. The idea is psycopg 3's, whose protocol is a set of
generators that yield what they wait for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["Call", "Invoke", "Plan", "Sleep", "Step", "Steps", "no_row", "scalar"]

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One statement that returns one row.

    ``statement`` has psycopg's named placeholders and never a value spliced in; ``read`` turns the
    row into the caller's type. ``background`` marks a statement whose loss in a server crash is
    acceptable (a counter): it commits without waiting for the disk.
    """

    statement: str
    parameters: Mapping[str, Any]
    read: Callable[[Row], T]

    def __iter__(self) -> Generator[Call[T], Any, T]:
        """Ask for this call inside a plan: ``row = yield from call``."""
        answer: T = yield self
        return answer


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause of ``seconds`` inside a plan."""

    seconds: float

    def __iter__(self) -> Generator[Sleep, Any, None]:
        """Pause inside a plan: ``yield from Sleep(0.5)``."""
        yield self


@dataclass(frozen=True, slots=True)
class Invoke(Generic[T]):
    """Work outside the database inside a plan, in the manner of each face.

    The synchronous executor calls ``blocking``; the asyncio one awaits ``awaitable()``.
    """

    blocking: Callable[[], T]
    awaitable: Callable[[], Awaitable[T]]

    def __iter__(self) -> Generator[Invoke[T], Any, T]:
        """Do the work inside a plan: ``result = yield from Invoke(f, g)``."""
        answer: T = yield self
        return answer


Step: TypeAlias = Call[Any] | Sleep | Invoke[Any]
Steps: TypeAlias = Generator[Step, Any, T]
Plan: TypeAlias = Callable[[], Steps[T]]


def scalar(row: Row) -> Any:
    """Read the only column of a row."""
    return row[0]


def no_row(_row: Row) -> None:
    """Read nothing: the call was made for its effect."""
