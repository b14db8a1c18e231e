"""The figures that pgsync is held to, and what a run says of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CLAIMS", "Claim", "Verdict", "verdicts"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Of the comparison whose title begins so, ``ours`` does ``aim`` times what ``beside`` does.

    Of several in ``beside`` the best counts that took part. Where it is empty the aim is a figure
    of ours alone: so many a second at least, or, of the extra figure that ``milliseconds`` names,
    so many at most. ``why`` is for a claim that is not kept.
    """

    work: str
    comparison: str
    ours: str
    beside: tuple[str, ...]
    aim: float
    milliseconds: str = ""
    why: str = ""


_PGQUEUER = ("PgQueuer",)
_REDIS_PY = ("redis-py Lock",)
_FLAT = "drain, beside itself"
_LEASES = "pgsync, leases of 1,000"

CLAIMS: Sequence[Claim] = (
    Claim(
        "drain a backlog, one worker process",
        "drain, one worker process",
        "pgsync, coroutine handler",
        _PGQUEUER,
        3,
        why="What a job without work costs is mostly Python's time in the worker: "
        "[decision 14](decisions/0014-what-a-worker-does-for-each-job.md).",
    ),
    Claim(
        "the same, two worker processes",
        "drain, two worker processes",
        "pgsync, coroutine handler",
        _PGQUEUER,
        2,
    ),
    Claim(
        "enqueue one, one thread",
        "enqueue one, one thread",
        "pgsync",
        ("INSERT + commit",),
        0.9,
        why="Processor time of both ends, in equal parts: the server checks the job, looks for "
        "late requests and for workers to wake, and Python makes the job and its JSON "
        "([decision 10](decisions/0010-jobs-are-numbered-before-they-are-added.md)).",
    ),
    Claim(
        "enqueue one, 8 threads of one process",
        "enqueue one, 8 threads",
        "pgsync",
        ("INSERT + commit, 8 connections",),
        2,
        why="What is won is the commit that 8 threads share; what limits it is the switching "
        "between them, and one processor for Python "
        "([decision 28](decisions/0028-batches-of-threads-by-prepared-statements.md)).",
    ),
    Claim(
        "enqueue in bulk",
        "enqueue in bulk",
        "pgsync",
        _PGQUEUER,
        4,
        why="The rows go by COPY, and the server is the limit: of a job it writes two names, two "
        "times and a second number more than of a row of the bare table "
        "([decision 25](decisions/0025-many-jobs-are-copied.md)).",
    ),
    Claim(
        "pick a job up after enqueue, median",
        "pickup",
        "pgsync, coroutine handler",
        (),
        1.5,
        milliseconds="p50_ms",
        why="A time, and no ratio: see the bare NOTIFY of the same run. Half of it is the claim, "
        "which takes a server process that has waited three times as long as one that works "
        "([decision 14](decisions/0014-what-a-worker-does-for-each-job.md)). Word goes after the "
        "commit, so that nobody waits for the lock of another's NOTIFY "
        "([decision 22](decisions/0022-word-after-the-commit.md)).",
    ),
    Claim(
        "lock and unlock, one thread",
        "lock + unlock, one thread",
        "pgsync",
        _REDIS_PY,
        1,
        why="Each writes and deletes a holder's row in a transaction of its own, which a bare "
        "advisory lock and a key in Redis do not: half of its time is the server's "
        "([decision 26](decisions/0026-a-lone-lock-by-prepared-statements.md)).",
    ),
    Claim(
        "contended lock, handoffs among 4 processes",
        "contended lock",
        "pgsync",
        (*_REDIS_PY, "python-redis-lock"),
        1.5,
        why="A handoff is two trips, two commits and a holder's row, one after the other, and what "
        "both processes do beside them fills both processors "
        "([decision 27](decisions/0027-a-contended-lock-step-by-step.md)).",
    ),
    Claim(
        "lock and unlock, 16 threads of one process",
        "lock + unlock, 16 threads",
        "pgsync",
        _REDIS_PY,
        4,
        why="All go in few round trips; what is left is one process's Python, which threads share, "
        "and two waits a pair, each a switch of threads "
        "([decision 28](decisions/0028-batches-of-threads-by-prepared-statements.md)).",
    ),
    Claim(
        "limiter, one hot key, one thread, strict",
        "limiter, one hot key, one thread",
        "pgsync",
        ("bare counter upsert",),
        1,
        why="The server takes about as long as for the bare upsert; the rest is Python's, before "
        "and after the question: [decision 19](decisions/0019-a-hit-is-one-update.md).",
    ),
    Claim(
        "the same with leases of 1,000",
        "limiter, one hot key, one thread",
        _LEASES,
        ("throttled-py",),
        10,
    ),
    Claim(
        "limiter, 4 processes of 2 threads, leases of 1,000",
        "limiter, one hot key, 4 processes",
        _LEASES,
        (),
        100_000,
    ),
    *(
        Claim(f"drain with {burden}", _FLAT, f"pgsync, {burden}", ("pgsync, empty tables",), 0.8)
        for burden in (
            "1,000,000 jobs waiting in another queue",
            "1,000,000 jobs waiting in the same queue",
            "10,000,000 jobs in the history",
        )
    ),
    Claim(
        "drain under a snapshot, the last jobs",
        "drain, the last",
        "pgsync, a snapshot held open",
        ("pgsync, no snapshot",),
        0.8,
    ),
    Claim(
        "import of CSV, numbers in E.164",
        "import of",
        "pgsync, numbers in E.164",
        ("COPY, constraints and indexes",),
        0.5,
        why="The file is read twice, at first before any row is written, and each chunk commits: "
        "[decision 24](decisions/0024-new-contacts-are-copied-the-others-merged.md).",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a claim: the figure, and whether it is kept."""

    claim: Claim
    figure: float
    beside: str

    @property
    def kept(self) -> bool:
        """Whether the figure is the aim's or better."""
        if self.claim.milliseconds:
            return self.figure <= self.claim.aim
        return self.figure >= self.claim.aim


def verdicts(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Of each claim that the run can judge: those whose contenders took part, at full size."""
    for claim in CLAIMS:
        for comparison in comparisons:
            if comparison["title"].startswith(claim.comparison):
                yield from _judged(claim, comparison["results"])


def _judged(claim: Claim, results: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    ours = next((each for each in results if each["name"].startswith(claim.ours)), None)
    best = max(
        (each for each in results if each["name"] in claim.beside),
        key=lambda each: each["median"],
        default=None,
    )
    if ours is None or (claim.beside and best is None):
        return
    if claim.milliseconds:
        yield Verdict(claim, ours["extras"][claim.milliseconds], "")
    elif best is None:
        yield Verdict(claim, ours["median"], "")
    else:
        yield Verdict(claim, ours["median"] / best["median"], best["name"])
