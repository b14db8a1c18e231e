"""Enqueuing by thousands: COPY into the table of jobs.

Where the time goes, and what was tried: docs/decisions/0025-many-jobs-are-copied.md.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any, LiteralString

from pgsync.database.calls import Call, Copy, scalar
from pgsync.queues.calls import JobOptions, add_jobs, args_texts

__all__ = ["CHUNK", "add_alike", "add_chunk"]

CHUNK = 5_000
"""How many jobs go in one call at most."""

_FIRST = 1_000
"""How many go in the first call of several: the server waits for these alone."""

_PIECE = 250
"""How many rows are sent at once."""

_AHEAD = 1_000
"""How many jobs are prepared each time: of a small job the server has four times the work."""

_WORTH_COPYING = 100
"""How many jobs at least are worth three round trips."""

_SURELY_FIT = 20_000
"""The server bounds arguments by its own text of them, in which six characters may become 310."""

_STATEMENT: LiteralString = (
    "COPY pgsync.job_ready (args, queue, task, priority, attempt, max_attempts, batch) FROM STDIN"
)

Adding = Generator[Call[Any] | Copy, Any, list[int]]


def add_alike(
    task: str, many_args: Iterable[dict[str, Any]], options: JobOptions, *, ahead: bool
) -> Adding:
    """Enqueue jobs of one task with the same options.

    With ``ahead`` the next are prepared while the server takes some: then ``many_args`` must not
    use the connection that these are sent on.
    """
    ids: list[int] = []
    source = iter(many_args)
    sizes = chain((_FIRST, CHUNK - _FIRST), repeat(CHUNK))
    chunk = _Chunk(task, options, source, next(sizes))
    while chunk.complete():
        following = _Chunk(task, options, source, next(sizes))
        ids += yield from chunk.add(following.prepare if ahead else _nothing)
        chunk = following
    return ids


def add_chunk(task: str, many_args: Sequence[dict[str, Any]], options: JobOptions) -> Adding:
    """Enqueue some jobs of one task with the same options; their ids come in the same order."""
    chunk = _Chunk(task, options, iter(many_args), len(many_args))
    chunk.complete()
    return chunk.add(_nothing)


def _nothing() -> None:
    """What is done meanwhile where nothing is to be."""


class _Chunk:
    """Jobs for one call, whose arguments are turned into text at once where they are copied."""

    def __init__(
        self, task: str, options: JobOptions, source: Iterator[dict[str, Any]], size: int
    ) -> None:
        self.task = task
        self.options = options
        self.many_args: list[dict[str, Any]] = []
        self._source = source
        self._size = size
        self._texts: list[str] = []
        self._failure: Exception | None = None

    def prepare(self) -> None:
        """Take the next jobs from the source; an error is raised when the chunk is complete."""
        if self._failure is None:
            try:
                self._take(_AHEAD)
            except Exception as error:  # noqa: BLE001 - it is raised below
                self._failure = error

    def complete(self) -> bool:
        """Take what the chunk lacks; returns whether it has any jobs."""
        if self._failure is not None:
            raise self._failure
        self._take(self._size)
        return bool(self.many_args)

    def _take(self, most: int) -> None:
        taken = list(islice(self._source, min(most, self._size - len(self.many_args))))
        self.many_args += taken
        if self.options.is_place_or_batch:
            self._texts += args_texts(taken, self.task, self.options)

    def add(self, meanwhile: Callable[[], None]) -> Adding:
        """Add the jobs; ``meanwhile`` is called again and again while the server takes them."""
        if len(self._texts) < _WORTH_COPYING or max(map(len, self._texts)) > _SURELY_FIT:
            return (yield from add_jobs(self.task, self.many_args, self.options))
        count = len(self._texts)
        before = yield from _before_copy(self.task, count, self.options)
        if before is None:
            return (yield from add_jobs(self.task, self.many_args, self.options))
        yield from Copy(_STATEMENT, self._rows(meanwhile))
        return (yield from _after_copy(self.options.queue, before, count))

    def _rows(self, meanwhile: Callable[[], None]) -> Iterator[str]:
        its = self.options
        place = (its.queue, self.task, its.priority, 0, its.max_attempts, its.batch)
        rest = "".join(f"\t{_field(value)}" for value in place) + "\n"
        for start in range(0, len(self._texts), _PIECE):
            # JSON text has no tab and no line break of its own.
            lines = "\n".join(self._texts[start : start + _PIECE]) + "\n"
            yield _backslashed(lines).replace("\n", rest)
            meanwhile()


def _before_copy(task: str, count: int, options: JobOptions) -> Call[int | None]:
    return Call(
        "SELECT pgsync.before_copy(%(task)s, %(queue)s::text, %(priority)s::integer,"
        " %(max_attempts)s::integer, %(count)s, %(batch)s::bigint)",
        {
            "task": task,
            "queue": options.queue,
            "priority": options.priority,
            "max_attempts": options.max_attempts,
            "count": count,
            "batch": options.batch,
        },
        scalar,
    )


def _after_copy(queue: str, before: int, count: int) -> Call[list[int]]:
    return Call(
        "SELECT c.last, c.ids"
        " FROM pgsync.after_copy(%(queue)s::text, %(before)s::bigint, %(count)s) AS c",
        {"queue": queue, "before": before, "count": count},
        lambda row: row[1] or list(range(row[0] - count + 1, row[0] + 1)),
    )


def _field(value: Any) -> str:
    if value is None:
        return r"\N"
    text = _backslashed(str(value))
    return text.replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


def _backslashed(text: str) -> str:
    return text.replace("\\", r"\\") if "\\" in text else text
