"""Jobs added under ids drawn before: many at once, and asked for again after a lost answer.

Why nothing is added twice: ``docs/decisions/0010-jobs-are-numbered-before-they-are-added.md``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import psycopg

from pgsync.database.arrays import array_of, values_of
from pgsync.database.calls import Call, Prepared, Sleep, Steps, nothing, scalar
from pgsync.database.combining import Party
from pgsync.database.json import to_json
from pgsync.errors import ConnectionFailed, OutcomeUnknown, PgsyncError
from pgsync.pauses import Pauses
from pgsync.queues.calls import JobOptions, args_text
from pgsync.queues.together import NewJob

__all__ = ["NumberedJob", "Numbers", "adding", "numbered"]

T = TypeVar("T")

_PATIENCE = 30.0
_FRESH_SECONDS = 1.0
_BYTES_A_UNIT = 10_000
_MOST_AWAITED = 1_000

_BIGINT, _INTEGER, _TRUE = struct.Struct("!q"), struct.Struct("!i"), b"\1"
_JSONB = b"\1"
"""The version of its binary form, before the text."""


class NumberedJob(Party):
    """A job that may be added together with others; ``id`` is the answer."""

    __slots__ = ("id", "options", "task", "text")

    def __init__(self, task: str, text: str, options: JobOptions) -> None:
        super().__init__(1 + len(text) // _BYTES_A_UNIT)
        self.task = task
        self.text = text
        self.options = options
        self.id = 0


def numbered(job: NewJob) -> NumberedJob | None:
    """The job, where it has nothing that must be decided for it alone; None otherwise.

    Raises:
        InvalidArgument: if JSON cannot say its arguments, or they have more than 1 MB.
    """
    options = job.options
    if not (options.is_place or options.is_place_and_time):
        return None
    return NumberedJob(job.task, args_text(job.args, job.task, options), options)


@dataclass(frozen=True, slots=True)
class _Added:
    """The answer to jobs: ids for as many more, and the queues of which workers wait for word.

    To those of the queues ``told`` it went out behind the jobs.
    """

    spare: list[int]
    awaited: list[str]
    told: Sequence[str] = ()


class Numbers:
    """Ids that came with the answer to the last jobs, for the next ones.

    They are used on the connection that drew them only, which ``holds`` tells of, since a standby
    that took over may not know them; and for a second, so that ids keep the order of enqueuing as
    far as people look.
    """

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds
        self._ids: list[int] = []
        self._until = 0.0
        self._awaited: set[str] = set()

    def take(self, count: int) -> list[int] | None:
        """So many ids; None where some must be drawn first."""
        if not self._holds() or time.monotonic() > self._until or len(self._ids) < count:
            return None
        taken, self._ids = self._ids[:count], self._ids[count:]
        return taken

    def put(self, ids: list[int]) -> None:
        """Keep these, in place of those that are left."""
        self._ids = ids
        self._until = time.monotonic() + _FRESH_SECONDS

    def awaited(self, queues: set[str]) -> list[str]:
        """Those of the queues for word of which a worker waited when it was last asked."""
        return sorted(queues & self._awaited)

    def note(self, queues: set[str], awaited: list[str]) -> None:
        """Keep of which of these queues workers wait."""
        self._awaited -= queues
        self._awaited.update(awaited)
        if len(self._awaited) > _MOST_AWAITED:
            self._awaited.clear()


def adding(jobs: Sequence[NumberedJob], numbers: Numbers) -> Steps[None]:
    """Add jobs in one transaction, and answer each; one that is refused fails alone."""
    try:
        ids = numbers.take(len(jobs)) or (yield from _patiently(_draw(len(jobs))))
    except OutcomeUnknown as error:  # of drawing ids only
        _fail(jobs, ConnectionFailed(str(error)))
    except Exception as error:  # noqa: BLE001 - it is the callers'
        _fail(jobs, error)
    else:
        yield from _add(jobs, ids, numbers)


def _add(jobs: Sequence[NumberedJob], ids: list[int], numbers: Numbers) -> Steps[None]:
    try:
        queues = {job.options.queue for job in jobs}
        awaited = numbers.awaited(queues)
        if _is_one_for_now(jobs):
            added = yield from _add_one(jobs[0], ids[0], awaited)
        else:
            added = yield from _add_all(jobs, ids, awaited)
    except OutcomeUnknown as lost:
        yield from _ask_again(jobs, ids, lost)
    except (KeyboardInterrupt, SystemExit):
        if len(jobs) > 1:  # The others are not to hear of it, nor to be added twice.
            yield from _ask_again(jobs, ids, None)
        raise
    except Exception as error:  # noqa: BLE001 - it is the caller's
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
        for job, job_id in zip(jobs, ids, strict=True):
            yield from _add([job], [job_id], numbers)
    else:
        numbers.put(added.spare)
        numbers.note(queues, added.awaited)
        _answer(jobs, ids)
        if untold := [queue for queue in added.awaited if queue not in added.told]:
            # Not at the commit of the jobs, which would wait for the lock that NOTIFY takes there.
            with suppress(PgsyncError, psycopg.Error):  # Workers poll.
                yield from _wake(untold)


def _ask_again(
    jobs: Sequence[NumberedJob], ids: list[int], lost: OutcomeUnknown | None
) -> Steps[None]:
    try:
        ids = yield from _patiently(_add_again(jobs, ids))
    except Exception as error:  # noqa: BLE001 - whatever it is, the outcome stays unknown
        unknown = OutcomeUnknown(
            f"the connection broke before the answer came, and asking again failed too ({error}): "
            "the job may have been added; look before you repeat it"
        )
        unknown.__cause__ = lost or error
        _fail(jobs, unknown)
    else:
        _answer(jobs, ids)


def _patiently(call: Call[T]) -> Steps[T]:
    """Ask on one connection after another, for at most half a minute."""
    until = time.monotonic() + _PATIENCE
    pauses = Pauses(0.05, 2.0)
    while True:
        try:
            return (yield from call)
        except (ConnectionFailed, OutcomeUnknown):
            pause = next(pauses)
            if time.monotonic() + pause > until:
                raise
        yield from Sleep(pause)


def _answer(jobs: Sequence[NumberedJob], ids: list[int]) -> None:
    for job, job_id in zip(jobs, ids, strict=True):
        job.id = job_id
        job.answered = True


def _fail(jobs: Sequence[NumberedJob], error: Exception) -> None:
    for job in jobs:
        job.fail(error)


def _draw(count: int) -> Call[list[int]]:
    return Call("SELECT pgsync.job_numbers(%(count)s)", {"count": count}, scalar)


def _is_one_for_now(jobs: Sequence[NumberedJob]) -> bool:
    return len(jobs) == 1 and jobs[0].options.is_place


def _add_one(job: NumberedJob, job_id: int, awaited: Sequence[str]) -> Steps[_Added]:
    at_once = _add_at_once(job, job_id, awaited)
    if at_once is not None:
        added = yield from at_once
        if added is not None:
            return added
    queue = job.options.queue
    return (
        yield from Call(
            "SELECT e.next, e.awaited FROM pgsync.enqueue_numbered(%(id)s::bigint, %(task)s,"
            " %(args)s::jsonb, %(queue)s, %(priority)s::integer, %(max_attempts)s::integer) AS e",
            {
                "id": job_id,
                "task": job.task,
                "args": job.text,
                "queue": queue,
                "priority": job.options.priority,
                "max_attempts": job.options.max_attempts,
            },
            lambda row: _Added([row[0]], [queue] if row[1] else []),
        )
    )


def _add_at_once(job: NumberedJob, job_id: int, awaited: Sequence[str]) -> Prepared[_Added] | None:
    """The same, prepared; None for what must go the ordinary way, which tells what is wrong."""
    queue = job.options.queue
    try:
        parameters = (
            _BIGINT.pack(job_id),
            job.task.encode(),
            _JSONB + job.text.encode(),
            queue.encode(),
            _INTEGER.pack(job.options.priority),
            _INTEGER.pack(job.options.max_attempts),
        )
    except (AttributeError, struct.error, UnicodeEncodeError):
        return None
    at_once = Prepared(
        "enqueue_numbered",
        "SELECT e.next, e.awaited FROM pgsync.enqueue_numbered($1, $2, $3, $4, $5, $6) AS e",
        parameters,
        lambda rows: _Added(
            [*_BIGINT.unpack(rows[0][0])], [queue] if rows[0][1] == _TRUE else [], awaited
        ),
        behind=_wake_at_once(awaited),
    )
    return at_once if at_once.goes_at_once else None


def _wake_at_once(queues: Sequence[str]) -> Prepared[None] | None:
    if not queues:
        return None
    return Prepared(
        "wake_workers",
        "SELECT pgsync.wake_workers($1)",
        [array_of("text", [queue.encode() for queue in queues])],
        lambda _rows: None,
    )


def _add_all(jobs: Sequence[NumberedJob], ids: list[int], awaited: Sequence[str]) -> Steps[_Added]:
    listed = _listed(jobs, ids)
    at_once = _add_all_at_once(listed, awaited)
    if at_once.goes_at_once:
        added = yield from at_once
        if added is not None:
            return added
    return (
        yield from Call(
            "SELECT e.next, e.awaited FROM pgsync.enqueue_all_numbered(%(jobs)s::jsonb) AS e",
            {"jobs": listed},
            lambda row: _Added(*row),
        )
    )


def _add_all_at_once(listed: str, awaited: Sequence[str]) -> Prepared[_Added]:
    return Prepared(
        "enqueue_all_numbered",
        "SELECT e.next, e.awaited FROM pgsync.enqueue_all_numbered($1) AS e",
        [_JSONB + listed.encode()],
        lambda rows: _Added(
            [_BIGINT.unpack(value)[0] for value in values_of(rows[0][0])],
            [str(value, "utf-8") for value in values_of(rows[0][1])],
            awaited,
        ),
        behind=_wake_at_once(awaited),
    )


def _wake(queues: list[str]) -> Call[None]:
    return Call("SELECT pgsync.wake_workers(%(queues)s)", {"queues": queues}, nothing)


def _add_again(jobs: Sequence[NumberedJob], ids: list[int]) -> Call[list[int]]:
    return Call(
        "SELECT pgsync.add_numbered_jobs_again(%(jobs)s::jsonb)",
        {"jobs": _listed(jobs, ids)},
        scalar,
    )


def _listed(jobs: Sequence[NumberedJob], ids: list[int]) -> str:
    rows = []
    for job, job_id in zip(jobs, ids, strict=True):
        options = job.options
        task, place = _around(job.task, options.queue, options.priority, options.max_attempts)
        time = "" if options.is_place else _time(options)
        rows.append(f"[{job_id},{task},{job.text},{place}{time}]")
    return f"[{','.join(rows)}]"


def _time(options: JobOptions) -> str:
    """What is behind the place of a job that waits for its time, as JSON."""
    run_at, delay = options.run_at, options.delay
    at = None if run_at is None else run_at.isoformat()
    after = (
        None if delay is None else f"{delay.days} days {delay.seconds}.{delay.microseconds:06} s"
    )
    return "," + to_json([at, after], "the time")[1:-1]


@lru_cache(1024)
def _around(task: str, queue: str, priority: int, max_attempts: int) -> tuple[str, str]:
    """What is before and behind the arguments of a job, as JSON."""
    name, place = to_json(task, "task"), to_json([queue, priority, max_attempts], "the options")
    return name, place[1:-1]
