"""Enqueuing by thousands: COPY into the table of jobs, with ids drawn before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, LiteralString, TypeVar

from pgsync.database.calls import Call, Copy, Row, nothing
from pgsync.queues.calls import JobOptions, add_jobs, args_text

__all__ = ["CHUNK", "add_alike", "add_chunk"]

T = TypeVar("T")

CHUNK = 5_000
"""How many jobs go in one call at most."""

_WORTH_COPYING = 100
"""How many jobs at least are worth three round trips."""

_SURELY_FIT = 20_000
"""The server bounds arguments by its own text of them, in which six characters may become 310."""

_STATEMENT: LiteralString = (
    "COPY pgsync.job_ready (id, args, queue, task, priority, attempt, max_attempts, batch,"
    " created_at, run_at) FROM STDIN"
)

Chunk = Generator[Call[Any] | Copy, Any, list[int]]


def add_alike(task: str, many_args: Iterable[dict[str, Any]], options: JobOptions) -> Chunk:
    """Enqueue jobs of one task with the same options, the next prepared while some are sent."""
    ids: list[int] = []
    source = iter(many_args)
    chunks = _Ahead(iter(lambda: _Chunk(task, list(islice(source, CHUNK)), options), None))
    for chunk in chunks:
        if not chunk.many_args:
            break
        ids += yield from chunk.add(chunks.prepare)
    return ids


def add_chunk(task: str, many_args: Sequence[dict[str, Any]], options: JobOptions) -> Chunk:
    """Enqueue some jobs of one task with the same options; their ids come in the same order."""
    return _Chunk(task, many_args, options).add()


class _Ahead(Generic[T], Iterator[T]):
    """An iterator whose next item, or error, can be prepared before it is asked for."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self._prepared: list[Callable[[], T]] = []

    def prepare(self) -> None:
        """Take the next item from the source; an error is raised when the item is asked for."""
        try:
            item = next(self._source)
        except Exception as error:  # noqa: BLE001 - it is raised below
            self._prepared = [_raising(error)]
        else:
            self._prepared = [lambda: item]

    def __next__(self) -> T:
        return self._prepared.pop()() if self._prepared else next(self._source)


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


class _Chunk:
    """Jobs for one call, whose arguments are turned into text at once where they are copied."""

    def __init__(self, task: str, many_args: Sequence[dict[str, Any]], options: JobOptions) -> None:
        self.task = task
        self.many_args = many_args
        self.options = options
        self._texts: list[str] = []
        if len(many_args) >= _WORTH_COPYING and options.is_place_or_batch:
            self._texts = [args_text(args, task, options) for args in many_args]

    def add(self, meanwhile: Callable[[], None] | None = None) -> Chunk:
        """Add the jobs; ``meanwhile`` is called while the server takes them."""
        if not self._texts or max(map(len, self._texts)) > _SURELY_FIT:
            return (yield from add_jobs(self.task, self.many_args, self.options))
        ids, moment = yield from _number_jobs(self.task, len(self._texts), self.options)
        yield from Copy(_STATEMENT, self._rows(ids, moment), meanwhile)
        queue = self.options.queue
        yield from Call("SELECT pgsync.notify_workers(%(queue)s)", {"queue": queue}, nothing)
        return ids

    def _rows(self, ids: list[int], moment: str) -> str:
        its = self.options
        place = (its.queue, self.task, its.priority, 0, its.max_attempts, its.batch)
        rest = "\t".join([*map(_field, place), moment, moment])
        # JSON text has no tab and no line break of its own.
        return "".join(
            [
                f"{job_id}\t{_backslashed(text)}\t{rest}\n"
                for job_id, text in zip(ids, self._texts, strict=True)
            ]
        )


def _number_jobs(task: str, count: int, options: JobOptions) -> Call[tuple[list[int], str]]:
    return Call(
        "SELECT n.ids, n.moment::text FROM pgsync.number_jobs(%(task)s, %(queue)s::text,"
        " %(priority)s::integer, %(max_attempts)s::integer, %(count)s, %(batch)s::bigint) AS n",
        {
            "task": task,
            "queue": options.queue,
            "priority": options.priority,
            "max_attempts": options.max_attempts,
            "count": count,
            "batch": options.batch,
        },
        _numbers,
    )


def _numbers(row: Row) -> tuple[list[int], str]:
    return row[0], row[1]


def _field(value: Any) -> str:
    if value is None:
        return r"\N"
    text = _backslashed(str(value))
    return text.replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


def _backslashed(text: str) -> str:
    return text.replace("\\", r"\\") if "\\" in text else text
