"""When a failed attempt is tried again."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument

__all__ = ["Backoff", "Errors", "RetryPolicy", "backoff_from", "errors_from"]

logger = logging.getLogger("pgsync.worker")

Errors = type[BaseException] | tuple[type[BaseException], ...]
"""A class of exceptions, or several."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: the last of ``delays`` repeats, times ``factor`` for each time it does.

    None is longer than ``longest``. Then each is spread by ``jitter`` (0.1 is ten per cent, up or
    down), so that jobs which failed together do not come back together.
    """

    delays: tuple[float, ...] = (5.0,)
    factor: float = 2.0
    jitter: float = 0.1
    longest: float = 3600.0

    def __post_init__(self) -> None:
        if not isinstance(self.delays, Sequence):
            raise InvalidArgument("delays of a Backoff are a tuple of seconds")
        numbers = (*self.delays, self.factor, self.jitter, self.longest)
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise InvalidArgument("a Backoff is of numbers: delays and longest in seconds")
        if not self.delays or not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise InvalidArgument("a Backoff needs delays, and no number below zero or infinite")
        if self.jitter > 1:
            raise InvalidArgument(f"jitter is a share from 0 to 1, not {self.jitter}")

    def base(self, attempt: int) -> float:
        """The delay in seconds after the failure of ``attempt`` (from 1), before jitter."""
        if attempt <= len(self.delays):
            delay = self.delays[attempt - 1]
        else:
            # Bounded exponent: a float overflows at about 1,024 doublings.
            repeats = min(attempt - len(self.delays), 64)
            delay = self.delays[-1] * self.factor**repeats
        return min(delay, self.longest)

    def delay(self, attempt: int) -> timedelta:
        """The delay after the failure of ``attempt`` (from 1), with jitter."""
        spread = 1 + random.uniform(-self.jitter, self.jitter)  # noqa: S311 - no secret
        return timedelta(seconds=self.base(attempt) * spread)


def backoff_from(given: Backoff | Duration | Sequence[Duration] | None) -> Backoff:
    """Understand what a task declares: a number, a list whose last element repeats, a Backoff.

    Raises:
        InvalidArgument: if it is none of these, or a delay is negative.
    """
    if given is None:
        return Backoff()
    if isinstance(given, Backoff):
        return given
    if isinstance(given, (int, float, timedelta)):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise InvalidArgument(
            "backoff must be seconds, a list of seconds whose last one repeats, or a Backoff"
        )
    delays = tuple(to_timedelta(each, "backoff", zero=True).total_seconds() for each in given)
    return Backoff(delays=delays, factor=1.0, longest=max(delays))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What a task does after a failed attempt.

    An error of ``discard_on`` is not tried again, nor, where ``retry_on`` is given, one that is not
    of it. Of the others ``choose`` says when, from the error and the attempt (from 1): seconds, a
    :class:`Backoff`, or None for not again. Without it the backoff does. The database
    sees to it that none begins later than ``until`` after the first, or after ``max_exceptions``.
    """

    backoff: Backoff = Backoff()
    retry_on: tuple[type[BaseException], ...] | None = None
    discard_on: tuple[type[BaseException], ...] = ()
    choose: Callable[[BaseException, int], Backoff | Duration | None] | None = None
    until: timedelta | None = None
    max_exceptions: int | None = None

    def delay(self, error: BaseException, attempt: int) -> timedelta | None:
        """How long to wait after ``attempt`` failed with ``error``; None: discard the job."""
        if isinstance(error, self.discard_on):
            return None
        if self.retry_on is not None and not isinstance(error, self.retry_on):
            return None
        if self.choose is None:
            return self.backoff.delay(attempt)
        try:
            answer = self.choose(error, attempt)
            if isinstance(answer, Backoff):
                return answer.delay(attempt)
            return None if answer is None else to_timedelta(answer, "retry", zero=True)
        except Exception:
            # A fault in the policy must not cost the job.
            logger.exception("a task's retry= failed; its backoff is used")
            return self.backoff.delay(attempt)


def errors_from(given: Errors | None, name: str) -> tuple[type[BaseException], ...] | None:
    """Understand ``retry_on`` and ``discard_on``.

    Raises:
        InvalidArgument: if one is no exception class.
    """
    if given is None:
        return None
    errors = tuple(given) if isinstance(given, Iterable) else (given,)
    for each in errors:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise InvalidArgument(f"{name} takes exception classes, not {each!r}")
    return errors
