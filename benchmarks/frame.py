"""The frame of all measurements.

The contenders of a comparison take turns, so that a machine which drifts does so under all of them;
what counts is the ratio of medians in one run, never an absolute figure.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Comparison", "Contender", "Result", "compare"]


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that does work; ``run`` does some and returns how many operations that was."""

    name: str
    run: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's rate in operations a second: median and quartiles over the rounds.

    ``ratio`` is the median over that of the first contender, the reference.
    """

    name: str
    median: float
    lower: float
    upper: float
    ratio: float


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
    rates: dict[str, list[float]] = {contender.name: [] for contender in field}
    for contender in field:
        contender.run()  # warm: connections, prepared statements, caches
    for _ in range(rounds):
        for contender in random.sample(field, len(field)):
            began = time.perf_counter()
            operations = contender.run()
            rates[contender.name].append(operations / (time.perf_counter() - began))
    reference = statistics.median(rates[field[0].name])
    return Comparison(
        title,
        rounds,
        tuple(_result(contender.name, rates[contender.name], reference) for contender in field),
    )


def _result(name: str, rates: list[float], reference: float) -> Result:
    lower, median, upper = statistics.quantiles(rates, n=4, method="inclusive")
    return Result(name, median, lower, upper, median / reference)
