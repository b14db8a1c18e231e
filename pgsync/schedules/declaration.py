"""What a schedule enqueues, and when: as code or a person declares it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypedDict

from pgsync.database.json import to_json
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.schedules.triggers import Given, Rhythm, rhythm_from

__all__ = ["MOST_MISFIRES", "ScheduleDeclaration", "ScheduleOptions", "digest_of"]

MOST_MISFIRES = 10_000
"""The largest ``misfire_limit``; the kernel has the same bound."""


class ScheduleOptions(TypedDict, total=False):
    """How fires are computed and made up for; see :class:`ScheduleDeclaration`.

    ``timezone`` is where a crontab line is meant; ``start`` is what an interval is counted from
    (an aware datetime; the year 2000 by default); ``misfire_grace`` and ``jitter`` are in seconds.
    """

    timezone: str
    start: datetime
    misfire: str
    misfire_grace: Duration
    misfire_limit: int
    jitter: Duration


@dataclass(frozen=True, slots=True)
class ScheduleDeclaration:
    """What to enqueue, and when. ``misfire`` is ``skip``, ``once`` or ``all``.

    A fire that is enqueued later than ``misfire_grace`` after its time is a misfire: no daemon ran
    when it was due. ``all`` makes up for the latest ``misfire_limit`` of them. A job runs up to
    ``jitter`` after its due time; how long is the same whichever daemon enqueues it.
    """

    name: str
    task: str
    rhythm: Rhythm
    args: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    misfire: str = "once"
    misfire_grace: timedelta = timedelta(minutes=1)
    misfire_limit: int = 1000
    jitter: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.misfire not in ("skip", "once", "all"):
            raise InvalidArgument(f"misfire must be skip, once or all, not {self.misfire!r}")
        limit = self.misfire_limit
        if not isinstance(limit, int) or not 1 <= limit <= MOST_MISFIRES:
            raise InvalidArgument(f"misfire_limit must be from 1 to {MOST_MISFIRES}, not {limit!r}")

    @classmethod
    def of(
        cls, name: str, task: str, given: Given, options: ScheduleOptions, **job: Any
    ) -> ScheduleDeclaration:
        """The declaration of a schedule; ``job`` is args, queue, priority and max_attempts."""
        timezone, start = options.get("timezone", "UTC"), options.get("start")
        return cls(
            name=name,
            task=task,
            rhythm=rhythm_from(given, timezone, start),
            misfire=options.get("misfire", "once"),
            misfire_grace=to_timedelta(options.get("misfire_grace", 60), "misfire_grace"),
            misfire_limit=options.get("misfire_limit", 1000),
            jitter=to_timedelta(options.get("jitter", 0), "jitter", zero=True),
            **job,
        )

    def facts(self) -> dict[str, Any]:
        """The declaration as the kernel reads it, in the types of JSON."""
        return {
            "name": self.name,
            "task": self.task,
            "args": dict(self.args),
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "kind": self.rhythm.kind,
            "expression": self.rhythm.expression,
            "timezone": self.rhythm.timezone,
            "misfire": self.misfire,
            "misfire_grace": f"{self.misfire_grace.total_seconds()} seconds",
            "misfire_limit": self.misfire_limit,
            "jitter": f"{self.jitter.total_seconds()} seconds",
        }


def digest_of(declarations: Iterable[ScheduleDeclaration]) -> str:
    """A name for a set of declarations: equal sets have equal names."""
    facts = sorted((each.facts() for each in declarations), key=lambda fact: str(fact["name"]))
    return hashlib.sha256(to_json(facts, "the schedules").encode()).hexdigest()
