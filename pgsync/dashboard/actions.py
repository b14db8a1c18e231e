"""What operators do: each action is one call of the kernel, which writes its own audit entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol, runtime_checkable

import psycopg
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from pgsync.dashboard import given
from pgsync.dashboard.filters import JobFilter
from pgsync.dashboard.job_forms import AddJob, EditJob
from pgsync.dashboard.reading import Read
from pgsync.dashboard.schedule_forms import ChangeSchedule
from pgsync.errors import InvalidArgument

__all__ = ["ACTIONS", "Action", "Again", "Performs", "perform"]

_MOST_IDS = 1000


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
        parameters = {**self.parameters(form), "by": by}
        row = await read.row(self.query, parameters)
        assert row is not None
        return self.said(parameters, row)


def _named(form: FormData) -> dict[str, Any]:
    name, why = form.get("name"), form.get("why")
    if not isinstance(name, str) or not name:
        raise HTTPException(400, "the form lacks a name")
    return {"name": name, "why": why if isinstance(why, str) and why.strip() else None}


def _numbered(form: FormData) -> dict[str, Any]:
    number = str(form.get("id"))
    if not given.is_id(number):
        raise HTTPException(400, "the form lacks a number")
    return {"id": int(number)}


def _window(form: FormData) -> dict[str, Any]:
    return {**_named(form), "per": given.positive_number(form, "per")}


def _limited(form: FormData) -> dict[str, Any]:
    return {**_window(form), "max": int(given.positive_number(form, "max"))}


_COUNTS = ("max_running", "max_running_per_key", "max_starts", "max_starts_per_key")
_WINDOWS = ("starts_per", "starts_per_key")


def _queue_limits(form: FormData) -> dict[str, Any]:
    limits: dict[str, Any] = dict(_named(form))
    for names, read in ((_COUNTS, given.count), (_WINDOWS, given.positive_number)):
        for name in names:
            limits[name] = read(form, name) if given.text(form, name) else None
    return limits


def _chosen(form: FormData) -> dict[str, Any]:
    if form.get("by_filter"):
        return {"filter": json.dumps(JobFilter.of(form).as_json()), "ids": None}
    ids = [each for each in form.getlist("id") if isinstance(each, str)]
    if not ids:
        raise HTTPException(400, "tick at least one job first")
    if len(ids) > _MOST_IDS or not all(map(given.is_id, ids)):
        raise HTTPException(400, f"ids must be numbers, {_MOST_IDS} of them at most")
    return {"filter": None, "ids": [int(each) for each in ids]}


def _by_one(
    call: LiteralString,
    parameters: Callable[[FormData], dict[str, Any]],
    done: str,
    not_done: str,
) -> Action:
    """A call of a function that answers false, or null, where there was nothing to do."""

    def said(asked: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        return (done if row["done"] else not_done).format(**asked, **row)

    return Action("SELECT pgsync." + call + " AS done", parameters, said)


def _on_jobs(function: LiteralString, done: str) -> Action:
    """A call for the jobs that are ticked, or that a filter finds."""

    def said(_asked: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        changed, passed_over = row["changed"], row["passed_over"]
        told = f"{done} {changed:,} job{'' if changed == 1 else 's'}."
        if passed_over:
            told += f" {passed_over:,} passed over: their state or unique key does not allow it."
        return told

    arguments: LiteralString = "(%(filter)s::jsonb, %(ids)s::bigint[], %(by)s)"
    return Action("SELECT * FROM pgsync." + function + arguments, _chosen, said)  # noqa: S608


ACTIONS: Mapping[tuple[str, str], Performs] = {
    ("jobs", "add"): AddJob(),
    ("jobs", "edit"): EditJob(),
    ("jobs", "retry"): _on_jobs("retry_jobs", "Retried"),
    ("jobs", "cancel"): _on_jobs("cancel_jobs", "Cancelled, or asked to end,"),
    ("jobs", "discard"): _on_jobs("discard_jobs", "Discarded"),
    ("queues", "pause"): _by_one(
        "pause_queue(%(name)s, %(by)s)",
        _named,
        "Queue {name} is paused; jobs that run go on.",
        "Queue {name} was not paused.",
    ),
    ("queues", "resume"): _by_one(
        "resume_queue(%(name)s, %(by)s)",
        _named,
        "Queue {name} goes on.",
        "Queue {name} was not paused.",
    ),
    ("queues", "limit"): Action(
        "SELECT pgsync.limit_queue(%(name)s, %(max_running)s::integer,"
        " %(max_running_per_key)s::integer, %(max_starts)s::integer,"
        " make_interval(secs => %(starts_per)s), %(max_starts_per_key)s::integer,"
        " make_interval(secs => %(starts_per_key)s), %(by)s)",
        _queue_limits,
        lambda asked, _row: f"The limits of queue {asked['name']} hold from now on.",
    ),
    ("schedules", "change"): ChangeSchedule(),
    ("schedules", "run"): _by_one(
        "run_schedule(%(name)s, %(by)s)",
        _named,
        "Enqueued job {done} of schedule {name}.",
        "There is no schedule {name}.",
    ),
    ("schedules", "pause"): _by_one(
        "pause_schedule(%(name)s, %(by)s, %(why)s)",
        _named,
        "Schedule {name} is paused.",
        "Schedule {name} was paused already.",
    ),
    ("schedules", "resume"): _by_one(
        "resume_schedule(%(name)s, %(by)s)",
        _named,
        "Schedule {name} goes on.",
        "Schedule {name} was not paused.",
    ),
    ("operations", "restart"): _by_one(
        "restart_operation(%(id)s, %(by)s)",
        _numbered,
        "Started again, as job {done}.",
        "There is no run {id}.",
    ),
    ("limits", "set"): Action(
        "SELECT pgsync.set_limit(%(name)s, %(max)s, make_interval(secs => %(per)s),"
        " actor => %(by)s, reason => %(why)s)",
        _limited,
        lambda asked, _row: f"{asked['name']} is limited to {asked['max']:,} from now on.",
    ),
    ("limits", "unset"): _by_one(
        "unset_limit(%(name)s, make_interval(secs => %(per)s), %(by)s)",
        _window,
        "Callers' own limit of {name} holds again.",
        "No limit was set for {name}.",
    ),
    ("locks", "release"): _by_one(
        "force_unlock(%(name)s, %(by)s, %(why)s)",
        _named,
        "Lock {name} was taken from its holder.",
        "Nobody held lock {name} any more.",
    ),
}


async def perform(read: Read, action: Performs, form: FormData, by: str) -> str:
    """Do it, in the transaction of ``read``, and return what to tell.

    Raises:
        HTTPException: where the form says nothing that could be done.
    """
    try:
        return await action.perform(read, form, by)
    except InvalidArgument as error:
        raise HTTPException(400, str(error)) from None
    except psycopg.errors.DataError as error:
        raise HTTPException(400, error.diag.message_primary or "that cannot be") from None
