"""A job's life as it was: attempts with their errors and logs, releases, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

__all__ = ["Moment", "timeline"]

_MOST = 200


@dataclass(slots=True)
class Moment:
    """Something that happened to a job, or is to happen, and when."""

    at: datetime
    what: str
    """enqueued, failed, released, running, completed, discarded, cancelled, due or log."""
    attempt: int | None = None
    worker: int | None = None
    began: datetime | None = None
    error: str | None = None
    traceback: str | None = None
    note: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0

    @property
    def ran(self) -> timedelta | None:
        """How long the attempt took."""
        return None if self.began is None or self.what == "running" else self.at - self.began


def timeline(
    job: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    notes: Sequence[Mapping[str, Any]],
) -> list[Moment]:
    """What happened to the job, the newest first.

    ``attempts`` are rows of pgsync.job_attempts, ``notes`` those of pgsync.job_notes.
    """
    moments = [_attempt(each) for each in attempts]
    moments += [_release(each) for each in notes if each["event"] == "released"]
    moments.sort(key=lambda each: (each.at, each.what == "running"))
    for note in notes:
        if note["event"] == "log":
            _log(note, moments)
    moments.append(Moment(job["created_at"], "enqueued"))
    if job["state"] in ("discarded", "cancelled"):
        reason = job["result"].get("reason") if isinstance(job["result"], Mapping) else None
        moments.append(Moment(job["finished_at"], job["state"], note=str(reason or "")))
    if job["state"] in ("scheduled", "retryable"):
        moments.append(Moment(job["run_at"], "due"))
    moments.sort(key=_order, reverse=True)
    return moments[:_MOST]


_LAST = ("enqueued", "log", "failed", "released", "completed", "running", "discarded", "cancelled")


def _order(moment: Moment) -> tuple[bool, datetime, int]:
    later = moment.what == "due"
    return later, moment.at, 0 if later else _LAST.index(moment.what)


def _attempt(row: Mapping[str, Any]) -> Moment:
    running = row["outcome"] == "running"
    return Moment(
        row["started_at"] if running or row["ended_at"] is None else row["ended_at"],
        row["outcome"],
        row["attempt"],
        row["worker"],
        row["started_at"],
        row["error"],
        row["traceback"],
    )


def _release(note: Mapping[str, Any]) -> Moment:
    said = note["detail"] if isinstance(note["detail"], Mapping) else {}
    delay = said.get("delay", "00:00:00")
    parts = [f"for {delay}" if delay != "00:00:00" else "", str(said.get("reason", ""))]
    return Moment(
        note["at"],
        "released",
        note["attempt"],
        note["worker"],
        note["started_at"],
        note=", ".join(part for part in parts if part),
    )


def _log(note: Mapping[str, Any], moments: list[Moment]) -> None:
    """Give lines to the end that they were noted before: that of their attempt which came next."""
    said = note["detail"] if isinstance(note["detail"], Mapping) else {}
    lines = [
        (str(line[0]), str(line[1]))
        for line in said.get("lines") or []
        if isinstance(line, list) and len(line) == 2
    ]
    for moment in moments:
        if (
            (moment.attempt, moment.worker) == (note["attempt"], note["worker"])
            and moment.at >= note["at"]
            and not moment.lines
        ):
            break
    else:
        moment = Moment(note["at"], "log", note["attempt"], note["worker"])
        moments.append(moment)
    moment.lines = lines
    moment.dropped = said.get("dropped", 0) if isinstance(said.get("dropped"), int) else 0
