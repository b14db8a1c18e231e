"""Adding a job and changing one that waits: what their forms show, say, and do."""

from __future__ import annotations

import hashlib
from datetime import UTC
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard import given
from pgsync.dashboard.exact import write_exact
from pgsync.dashboard.queue_page import read_queue_names
from pgsync.dashboard.reading import Read
from pgsync.masking import HIDDEN, masked_value, unmasked
from pgsync.queues import WAITING

__all__ = ["AddJob", "EditJob", "read_edit_job", "read_new_job"]

_FIND = """
SELECT j.id, j.task, j.queue, j.state, j.args, j.args::text AS args_text, j.priority, j.run_at
FROM pgsync.all_jobs AS j WHERE j.id = %(id)s::bigint
"""


async def read_new_job(read: Read, request: Request) -> dict[str, Any]:
    """An empty form; or one with the task, the queue and the arguments of the job ``like``."""
    fields = {"task": "", "queue": "default", "args": "{}", "priority": "0", "max_attempts": "5"}
    like = request.query_params.get("like", "")
    if given.is_id(like) and (job := await _find(read, like)):
        fields |= {"task": job["task"], "queue": job["queue"], "priority": str(job["priority"])}
        fields["args"] = write_exact(masked_value(job["args"]), indent=2)
    return {
        "fields": {**fields, "run_at": ""},
        "wrong": None,
        "queues": await read_queue_names(read),
    }


async def read_edit_job(read: Read, request: Request) -> dict[str, Any]:
    """The form of a job that waits.

    Raises:
        HTTPException: if there is no such job, or it waits no more.
    """
    job = await _waiting(read, request.path_params["id"])
    fields = {
        "id": str(job["id"]),
        "args": write_exact(masked_value(job["args"]), indent=2),
        "priority": str(job["priority"]),
        "run_at": _due(job),
        "version": _version(job),
    }
    return {"fields": fields, "wrong": None, "job": job}


class AddJob:
    """Enqueues the job of the form."""

    again = "new_job"

    async def perform(self, read: Read, form: FormData, by: str) -> str:
        """Do it, and return what to tell."""
        args = given.json_object(given.text(form, "args") or "{}")
        if HIDDEN in write_exact(args):
            raise HTTPException(400, f"put values where the arguments say {HIDDEN}")
        row = await read.row(
            "SELECT pgsync.enqueue_by(%(by)s, %(task)s, %(args)s::jsonb, %(queue)s,"
            " %(priority)s::integer, %(run_at)s, %(max_attempts)s::integer) AS id",
            {
                "by": by,
                "task": given.text(form, "task"),
                "args": write_exact(args),
                "queue": given.text(form, "queue") or "default",
                "priority": given.whole_number(form, "priority"),
                "run_at": given.moment(given.text(form, "run_at")),
                "max_attempts": given.whole_number(form, "max_attempts"),
            },
        )
        assert row is not None
        return f"Enqueued job {row['id']}."

    async def show(self, read: Read, _form: FormData, /) -> dict[str, Any]:
        """What the page needs besides the fields, to show the form once more."""
        return {"queues": await read_queue_names(read)}


class EditJob:
    """Changes a job as the form says, if it waits still and nobody has changed it meanwhile."""

    again = "edit_job"

    async def perform(self, read: Read, form: FormData, by: str) -> str:
        """Do it, and return what to tell."""
        job = await _waiting(read, given.text(form, "id"))
        if given.text(form, "version") != _version(job):
            raise HTTPException(
                409, "somebody has changed the job since this page was loaded: load it again"
            )
        due = given.text(form, "run_at")
        row = await read.row(
            "SELECT e.edited, e.state FROM pgsync.edit_job(%(id)s::bigint, %(args)s::jsonb,"
            " %(priority)s::integer, %(run_at)s, %(by)s, %(was)s::jsonb) AS e",
            {
                "id": job["id"],
                "args": write_exact(
                    unmasked(given.json_object(given.text(form, "args")), job["args"])
                ),
                "priority": given.whole_number(form, "priority"),
                # The field has whole seconds: as it was shown, it is what it was.
                "run_at": None if due == _due(job) else given.moment(due),
                "by": by,
                "was": job["args_text"],
            },
        )
        assert row is not None
        if row["edited"]:
            return f"Job {job['id']} was changed."
        if row["state"] not in WAITING:
            raise HTTPException(409, f"job {job['id']} is {row['state'] or 'gone'}: too late")
        return f"Job {job['id']} is as it was: nothing was changed."

    async def show(self, read: Read, form: FormData, /) -> dict[str, Any]:
        """What the page needs besides the fields, to show the form once more."""
        return {"job": await _waiting(read, given.text(form, "id"))}


async def _find(read: Read, job_id: str | int) -> dict[str, Any] | None:
    return await read.row(_FIND, {"id": job_id})


async def _waiting(read: Read, job_id: str | int) -> dict[str, Any]:
    if isinstance(job_id, str) and not given.is_id(job_id):
        raise HTTPException(404, "there is no such job")
    job = await _find(read, job_id)
    if job is None:
        raise HTTPException(404, f"there is no job {job_id}, or its history has been pruned")
    if job["state"] not in WAITING:
        raise HTTPException(
            409, f"job {job_id} is {job['state']}: only one that waits can be changed"
        )
    return job


def _version(job: dict[str, Any]) -> str:
    """A word that another version of the job's arguments, priority and time does not have."""
    text = "\0".join([job["args_text"], str(job["priority"]), job["run_at"].isoformat()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _due(job: dict[str, Any]) -> str:
    return f"{job['run_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
