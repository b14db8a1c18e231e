"""What operators do: each action is one call of the kernel, which writes its own audit entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol, runtime_checkable

import psycopg
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from pgsync.dashboard.filters import JobFilter
from pgsync.dashboard.job_forms import AddJob, EditJob
from pgsync.dashboard.reading import Read
from pgsync.dashboard.schedule_page import rhythm_given

__all__ = ["ACTIONS", "Action", "Again", "Performs", "perform"]

_MOST_IDS = 1000
_MOST = 2**31 - 1


class Performs(Protocol):
    """Something that a form can have done."""

    async def perform(self, read: Read, form: FormData, by: str) -> str:
        """Do it, in the transaction of ``read``, and return what to tell."""
        ...


@runtime_checkable
class Again(Performs, Protocol):
    """An action whose form fills a page, ``again``, which is shown once more if it is wrong."""

    again: str

    async def show(self, read: Read, form: FormData, /) -> dict[str, Any]:
        """What that page needs besides the form's fields."""
        ...


@dataclass(frozen=True, slots=True)
class Action:
    """A call that returns one row, and what to say of it."""

    query: LiteralString
    parameters: Callable[[FormData], dict[str, Any]]
    said: Callable[[Mapping[str, Any], Mapping[str, Any]], str]

    async def perform(self, read: Read, form: FormData, by: str) -> str:
        """Make the call, and return what to tell."""
        given = {**self.parameters(form), "by": by}
        row = await read.row(self.query, given)
        assert row is not None
        return self.said(given, row)


def _named(form: FormData) -> dict[str, Any]:
    name, why = form.get("name"), form.get("why")
    if not isinstance(name, str) or not name:
        raise HTTPException(400, "the form lacks a name")
    return {"name": name, "why": why if isinstance(why, str) and why.strip() else None}


def _numbered(form: FormData) -> dict[str, Any]:
    number = str(form.get("id"))
    if not number.isdecimal() or len(number) > 18:
        raise HTTPException(400, "the form lacks a number")
    return {"id": int(number)}


def _window(form: FormData) -> dict[str, Any]:
    return {**_named(form), "per": _positive(form, "per")}


def _limited(form: FormData) -> dict[str, Any]:
    return {**_window(form), "max": int(_positive(form, "max"))}


def _queue_limits(form: FormData) -> dict[str, Any]:
    given: dict[str, Any] = dict(_named(form))
    for name in _QUEUE_LIMITS:
        given[name] = _positive(form, name) if str(form.get(name) or "").strip() else None
    for name in ("max_running", "max_running_per_key", "max_starts", "max_starts_per_key"):
        given[name] = None if given[name] is None else int(given[name])
    return given


_QUEUE_LIMITS = (
    "max_running",
    "max_running_per_key",
    "max_starts",
    "starts_per",
    "max_starts_per_key",
    "starts_per_key",
)


def _positive(form: FormData, name: str) -> float:
    try:
        value = float(str(form.get(name)))
    except ValueError:
        value = 0
    if not 0 < value <= _MOST:
        raise HTTPException(400, f"{name} must be a number above zero, {_MOST} at most")
    return value


def _chosen(form: FormData) -> dict[str, Any]:
    if form.get("by_filter"):
        return {"filter": json.dumps(JobFilter.of(form).as_json()), "ids": None}
    ids = [each for each in form.getlist("id") if isinstance(each, str)]
    if not ids:
        raise HTTPException(400, "tick at least one job first")
    if len(ids) > _MOST_IDS or not all(each.isdecimal() and len(each) <= 18 for each in ids):
        raise HTTPException(400, f"ids must be numbers, {_MOST_IDS} of them at most")
    return {"filter": None, "ids": [int(each) for each in ids]}


def _of_one(done: str, not_done: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], str]:
    return lambda given, row: (done if row["done"] else not_done).format(**given, **row)


def _of_jobs(done: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], str]:
    def say(_given: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        changed, passed_over = row["changed"], row["passed_over"]
        said = f"{done} {changed:,} job{'' if changed == 1 else 's'}."
        if passed_over:
            said += f" {passed_over:,} passed over: their state or unique key does not allow it."
        return said

    return say


ACTIONS: Mapping[tuple[str, str], Performs] = {
    ("jobs", "add"): AddJob(),
    ("jobs", "edit"): EditJob(),
    ("jobs", "retry"): Action(
        "SELECT * FROM pgsync.retry_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
        _chosen,
        _of_jobs("Retried"),
    ),
    ("jobs", "cancel"): Action(
        "SELECT * FROM pgsync.cancel_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
        _chosen,
        _of_jobs("Cancelled, or asked to end,"),
    ),
    ("jobs", "discard"): Action(
        "SELECT * FROM pgsync.discard_jobs(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)",
        _chosen,
        _of_jobs("Discarded"),
    ),
    ("queues", "pause"): Action(
        "SELECT pgsync.pause_queue(%(name)s, %(by)s) AS done",
        _named,
        _of_one("Queue {name} is paused; jobs that run go on.", "Queue {name} was not paused."),
    ),
    ("queues", "resume"): Action(
        "SELECT pgsync.resume_queue(%(name)s, %(by)s) AS done",
        _named,
        _of_one("Queue {name} goes on.", "Queue {name} was not paused."),
    ),
    ("queues", "limit"): Action(
        "SELECT pgsync.limit_queue(%(name)s, %(max_running)s::integer,"
        " %(max_running_per_key)s::integer, %(max_starts)s::integer,"
        " make_interval(secs => %(starts_per)s), %(max_starts_per_key)s::integer,"
        " make_interval(secs => %(starts_per_key)s), %(by)s) IS NOT NULL AS done",
        _queue_limits,
        lambda given, _row: f"The limits of queue {given['name']} hold from now on.",
    ),
    ("schedules", "run"): Action(
        "SELECT pgsync.run_schedule(%(name)s, %(by)s) AS done",
        _named,
        _of_one("Enqueued job {done} of schedule {name}.", "There is no schedule {name}."),
    ),
    ("schedules", "pause"): Action(
        "SELECT pgsync.pause_schedule(%(name)s, %(by)s, %(why)s) AS done",
        _named,
        _of_one("Schedule {name} is paused.", "Schedule {name} was paused already."),
    ),
    ("schedules", "resume"): Action(
        "SELECT pgsync.resume_schedule(%(name)s, %(by)s) AS done",
        _named,
        _of_one("Schedule {name} goes on.", "Schedule {name} was not paused."),
    ),
    ("schedules", "change"): Action(
        "SELECT pgsync.change_schedule(%(name)s, %(kind)s, %(expression)s, %(timezone)s,"
        " %(queue)s, %(priority)s::integer, %(max_attempts)s::integer, %(by)s, %(why)s) AS done",
        rhythm_given,
        _of_one(
            "Schedule {name} is changed; daemons take it up in 2 s.", "There is no schedule {name}."
        ),
    ),
    ("operations", "restart"): Action(
        "SELECT pgsync.restart_operation(%(id)s, %(by)s) AS done",
        _numbered,
        _of_one("Started again, as job {done}.", "There is no run {id}."),
    ),
    ("limits", "set"): Action(
        "SELECT pgsync.set_limit(%(name)s, %(max)s, make_interval(secs => %(per)s),"
        " actor => %(by)s, reason => %(why)s) IS NOT NULL AS done",
        _limited,
        lambda given, _row: f"{given['name']} is limited to {given['max']:,} from now on.",
    ),
    ("limits", "unset"): Action(
        "SELECT pgsync.unset_limit(%(name)s, make_interval(secs => %(per)s), %(by)s) AS done",
        _window,
        _of_one("Callers' own limit of {name} holds again.", "No limit was set for {name}."),
    ),
    ("locks", "release"): Action(
        "SELECT pgsync.force_unlock(%(name)s, %(by)s, %(why)s) AS done",
        _named,
        _of_one("Lock {name} was taken from its holder.", "Nobody held lock {name} any more."),
    ),
}


async def perform(read: Read, action: Performs, form: FormData, by: str) -> str:
    """Do it, in the transaction of ``read``, and return what to tell.

    Raises:
        HTTPException: where the form says nothing that could be done.
    """
    try:
        return await action.perform(read, form, by)
    except psycopg.errors.DataError as error:
        raise HTTPException(400, error.diag.message_primary or "that cannot be") from None
