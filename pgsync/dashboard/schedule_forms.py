"""Changing a schedule that no code declares: what the form shows, says, and does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard import given
from pgsync.dashboard.exact import write_exact
from pgsync.dashboard.reading import Read
from pgsync.dashboard.schedule_page import find_schedule, is_by_code
from pgsync.errors import InvalidArgument
from pgsync.masking import masked_value, unmasked
from pgsync.schedules import Rhythm

__all__ = ["ChangeSchedule", "read_edit_schedule"]

_CHANGE = """
SELECT pgsync.change_schedule(
    %(name)s, %(kind)s, %(expression)s, %(timezone)s, %(queue)s, %(priority)s::integer,
    %(max_attempts)s::integer, %(by)s, %(why)s, args => %(args)s::jsonb, misfire => %(misfire)s,
    misfire_grace => make_interval(secs => %(misfire_grace)s::float8),
    misfire_limit => %(misfire_limit)s::integer,
    jitter => make_interval(secs => %(jitter)s::float8)) AS done
"""


async def read_edit_schedule(read: Read, request: Request) -> dict[str, Any]:
    """The form of a schedule, which is named in the query string.

    Raises:
        HTTPException: if there is no such schedule, or code declares it.
    """
    schedule = await find_schedule(read, request.query_params.get("name", ""))
    if is_by_code(schedule):
        raise HTTPException(409, f"the code of {schedule['app']} declares it: change it there")
    kept = ("name", "kind", "expression", "timezone", "queue", "priority", "max_attempts")
    fields = {each: str(schedule[each]) for each in (*kept, "misfire", "misfire_limit")}
    for each in ("misfire_grace", "jitter"):
        fields[each] = f"{schedule[each].total_seconds():g}"
    fields["args"] = write_exact(masked_value(schedule["args"]), indent=2)
    return {"fields": {**fields, "why": ""}, "wrong": None, "schedule": schedule}


class ChangeSchedule:
    """Changes a schedule as the form says; a setting that the form has not stays as it is."""

    again = "edit_schedule"

    async def perform(self, read: Read, form: FormData, by: str) -> str:
        """Do it, and return what to tell."""
        fields = ("name", "kind", "expression", "timezone", "queue")
        wanted: dict[str, Any] = {each: given.text(form, each) for each in fields}
        wanted |= {each: given.text(form, each) or None for each in ("why", "misfire")}
        wanted |= {each: given.whole_number(form, each) for each in ("priority", "max_attempts")}
        rhythm = Rhythm(wanted["kind"], wanted["expression"], wanted["timezone"])
        if rhythm.next_after(datetime.now(UTC)) is None:
            raise InvalidArgument(f"{wanted['expression']!r} is never due any more")
        schedule = await find_schedule(read, wanted["name"])
        wanted["args"] = None
        if args := given.text(form, "args"):
            wanted["args"] = write_exact(unmasked(given.json_object(args), schedule["args"]))
        wanted["misfire_limit"] = (
            given.whole_number(form, "misfire_limit") if given.text(form, "misfire_limit") else None
        )
        for each in ("misfire_grace", "jitter"):
            wanted[each] = _seconds(form, each)
        await read.row(_CHANGE, {**wanted, "by": by})
        return f"Schedule {wanted['name']} is changed; daemons take it up in 2 s."

    async def show(self, read: Read, form: FormData, /) -> dict[str, Any]:
        """What the page needs besides the fields, to show the form once more."""
        return {"schedule": await find_schedule(read, given.text(form, "name"))}


def _seconds(form: FormData, name: str) -> float | None:
    if not given.text(form, name):
        return None
    # Its jitter alone may be nothing, and the kernel says which of them may not.
    return 0 if given.text(form, name) == "0" else given.positive_number(form, name)
