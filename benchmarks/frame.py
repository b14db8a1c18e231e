"""The frame of all measurements.

The contenders of a comparison take turns, so that a machine which drifts does so under all of them;
what counts is the ratio of medians in one run, never an absolute figure.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Comparison", "Contender", "Pace", "Result", "Run", "compare", "latencies", "summarised"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured: so many rounds, each with ``share`` of the usual work.

    ``full`` is for sizes that take minutes to make.
    """

    rounds: int
    share: float = 1.0
    full: bool = False

    @property
    def few(self) -> int:
        """How many rounds where one takes long."""
        return min(self.rounds, 3)

    def count(self, usual: int) -> int:
        """How many operations to do where ``usual`` are usual."""
        return max(1, round(usual * self.share))

    def seconds(self, usual: float) -> float:
        """How long to run where ``usual`` seconds are usual."""
        return usual * self.share


@dataclass(frozen=True, slots=True)
class Run:
    """What one run did, where that is more than a number of operations.

    ``seconds`` is set by a contender that timed a part of the run only. ``extras`` are further
    figures, each with its unit in its name.
    """

    operations: int
    seconds: float | None = None
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that does work; ``run`` does some and returns how many operations that was."""

    name: str
    run: Callable[[], int | Run]


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's rate in operations a second: median and quartiles over the rounds.

    ``ratio`` is the median over that of the first contender, the reference; ``extras`` has the
    median of each further figure.
    """

    name: str
    median: float
    lower: float
    upper: float
    ratio: float
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and how the contenders did."""

    title: str
    rounds: int
    results: tuple[Result, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON has it."""
        return asdict(self)


def compare(title: str, contenders: Iterable[Contender], rounds: int) -> Comparison:
    """Let the contenders take turns for some rounds; the first is the reference."""
    field = list(contenders)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in field}
    for contender in field:
        contender.run()  # warm: connections, prepared statements, caches
    for _ in range(rounds):
        for contender in random.sample(field, len(field)):
            runs[contender.name].append(_timed(contender))
    return summarised(title, runs)


def summarised(title: str, runs: Mapping[str, Sequence[Run]]) -> Comparison:
    """A comparison out of the runs of each contender, by name; the first is the reference."""
    reference = statistics.median(_rate(run) for run in next(iter(runs.values())))
    return Comparison(
        title,
        max(map(len, runs.values())),
        tuple(_result(name, its, reference) for name, its in runs.items()),
    )


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """The extras of a run that timed each of its operations: p50 and p99 in milliseconds."""
    if len(seconds) < 2:
        return {}
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": percentiles[49] * 1000, "p99_ms": percentiles[98] * 1000}


def _timed(contender: Contender) -> Run:
    began = time.perf_counter()
    done = contender.run()
    took = time.perf_counter() - began
    if isinstance(done, int):
        return Run(done, took)
    return Run(done.operations, done.seconds or took, done.extras)


def _rate(run: Run) -> float:
    assert run.seconds is not None
    return run.operations / run.seconds


def _result(name: str, runs: Sequence[Run], reference: float) -> Result:
    lower, median, upper = statistics.quantiles(map(_rate, runs), n=4, method="inclusive")
    figures = {figure for run in runs for figure in run.extras}
    extras = {
        figure: statistics.median(run.extras[figure] for run in runs if figure in run.extras)
        for figure in sorted(figures)
    }
    return Result(name, median, lower, upper, median / reference, extras)
