"""The JSON API and what else programs ask: each endpoint is declared once, with its parameters and
answers. The declaration makes its route, the check of what is given, and its place in the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.filters import JobFilter
from pgsync.dashboard.formats import json_value
from pgsync.dashboard.panels import PANELS, Panel, read_panel
from pgsync.dashboard.reading import Read
from pgsync.queues import STATES

__all__ = ["ENDPOINTS", "Endpoint", "Parameter", "Rows", "read_rows"]

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WORD: Schema = {"type": "string", "maxLength": 200, "pattern": r"^[^\x00]*$"}
_MOMENT: Schema = {
    "type": "string",
    "pattern": "^[0-9][0-9A-Za-z:+.-]*$",
    "anyOf": [
        {"pattern": "^[0-9]{1,5}[smhdw]$"},
        {"format": "date"},
        {"format": "date-time"},
    ],
}
_ID: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_KINDS: Mapping[str, Schema] = {
    "text": _TEXT,
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "moment": {"type": "string", "format": "date-time"},
    "seconds": {"type": "number", "description": "A duration in seconds."},
    "texts": {"type": "array", "items": _TEXT},
    "integers": {"type": "array", "items": {"type": "integer"}},
    "object": {"type": "object"},
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What may be given; ``place`` is query, path or header, and one that repeats has any of it."""

    name: str
    about: str
    schema: Schema
    place: str = "query"
    repeats: bool = False

    def check(self, request: Request) -> None:
        """Refuse what does not fit the schema.

        Raises:
            HTTPException: 400, naming the parameter.
        """
        if self.place != "query":
            return
        given = request.query_params.getlist(self.name)
        if (len(given) > 1 and not self.repeats) or not all(map(self._fits, given)):
            raise HTTPException(400, f"{self.name}: {self.about}")

    def _fits(self, text: str) -> bool:
        if self.schema["type"] == "integer":
            return (
                re.fullmatch(r"[0-9]{1,18}", text) is not None
                and self.schema["minimum"] <= int(text) <= self.schema["maximum"]
            )
        return (
            text in self.schema.get("enum", [text])
            and len(text) <= self.schema.get("maxLength", len(text))
            and re.search(self.schema.get("pattern", ""), text) is not None
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path. ``handler`` names what answers it; ``answers`` has the schema by media type, or
    none where there is no text, for each status that is its own."""

    path: str
    handler: str
    summary: str
    answers: Mapping[int, Mapping[str, Schema] | None]
    parameters: tuple[Parameter, ...] = ()
    panel: str | None = None
    needs_token: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of its answer, and what they say."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a panel, and before which id its next page is, if there is one."""

    rows: list[dict[str, Any]]
    next_before: int | None


async def read_rows(read: Read, endpoint: Endpoint, request: Request) -> Rows:
    """What an endpoint of a panel answers.

    Raises:
        HTTPException: for parameters that do not fit.
        InvalidArgument: for a filter that cannot be.
    """
    _check(request, endpoint)
    panel = PANELS[endpoint.panel or ""]
    before = int(request.query_params.get("before", 0)) or None
    found: dict[str, Any] = {}
    if panel.name == "jobs":
        found = await _find_jobs(read, request, before)
    rows = await read_panel(read, panel.name, before, found.get("ids"))
    if panel.page and len(rows) == panel.page:
        following = rows[-1]["id"]
    else:
        following = found.get("next_before")
    return Rows(
        [{name: json_value(value) for name, value in row.items()} for row in rows], following
    )


def _check(request: Request, endpoint: Endpoint) -> None:
    known = [parameter.name for parameter in endpoint.parameters if parameter.place == "query"]
    # One that is misspelt would find too much.
    if unknown := sorted(set(request.query_params) - set(known)):
        raise HTTPException(
            400, f"{unknown[0]}: no such parameter; there are {', '.join(known) or 'none'}"
        )
    for parameter in endpoint.parameters:
        parameter.check(request)


async def _find_jobs(read: Read, request: Request, before: int | None) -> dict[str, Any]:
    wanted = JobFilter.of(request.query_params)
    found = await read.row(
        "SELECT f.ids, f.next_before"
        " FROM pgsync.find_jobs(%(filter)s::jsonb, before => %(before)s, most => 50) AS f",
        {"filter": json.dumps(wanted.as_json()), "before": before},
    )
    assert found is not None
    return found


def _row(fields: str) -> Schema:
    """The schema of a panel's rows: ``id:integer error:text?``, where ? may be null."""
    properties = {}
    for each in fields.split():
        name, kind = each.removesuffix("?").split(":")
        schema = _KINDS[kind]
        if each.endswith("?"):
            schema = {**schema, "type": [schema["type"], "null"]}
        properties[name] = schema
    return {"type": "object", "properties": properties, "required": list(properties)}


_BEFORE = Parameter("before", "a number: only what has a lower id, the next page", _ID)
_JOB_FILTER = (
    Parameter(
        "state",
        f"any of {', '.join(STATES)}",
        {"type": "string", "enum": list(STATES)},
        repeats=True,
    ),
    Parameter("queue", "a queue", _WORD),
    Parameter("task", "a task", _WORD),
    Parameter("text", "what is in the task, the queue, a key or an error", _WORD),
    Parameter(
        "arg",
        "key=value of an argument; dots lead inside, customer.id=7",
        {**_WORD, "pattern": r"^[a-zA-Z0-9_][^\x00=]*=[^\x00]*$"},
        repeats=True,
    ),
    Parameter("tag", "a tag", _WORD, repeats=True),
    Parameter("attempts", "a number: so many have begun at least", {**_ID, "maximum": 32767}),
    Parameter("since", "enqueued after a moment, or an age ago at most: 2h", _MOMENT),
    Parameter("until", "enqueued before a moment, or an age ago at least: 2h", _MOMENT),
)
_INDICATOR = _row(
    "operation:text key:text state:text id:integer? actor:text? requested_at:moment?"
    " finished_at:moment? done:integer? total:integer? error:text? blocked_by:text?"
)
_PLAIN: Mapping[str, Schema] = {"text/plain": _TEXT}


def _of_panel(panel: Panel) -> Endpoint:
    filters = _JOB_FILTER if panel.name == "jobs" else ()
    return Endpoint(
        f"/api/{panel.name}",
        "api",
        panel.about,
        {200: {"application/json": {"type": "array", "items": _row(panel.fields)}}},
        (*filters, _BEFORE) if panel.page else filters,
        panel.name,
        headers={"Link": "The next page, as RFC 8288 has it, where there is one."}
        if panel.page
        else {},
    )


ENDPOINTS = (
    Endpoint("/api", "document", "This document.", {200: {"application/json": {"type": "object"}}}),
    *map(_of_panel, PANELS.values()),
    Endpoint(
        "/status/{operation}/{key}",
        "status",
        "The state of an operation on a key, for an indicator.",
        {200: {"text/html": _TEXT, "application/json": _INDICATOR}, 304: None},
        (
            Parameter("operation", "the operation's name", {**_TEXT, "minLength": 1}, "path"),
            Parameter("key", "the name of its lock", {**_TEXT, "minLength": 1}, "path"),
            Parameter("If-None-Match", "the ETag of an answer that is known", _TEXT, "header"),
        ),
        headers={"ETag": "Changes when the state does."},
    ),
    Endpoint("/livez", "live", "Whether the process answers.", {200: _PLAIN}, needs_token=False),
    Endpoint("/healthz", "live", "The same as /livez.", {200: _PLAIN}, needs_token=False),
    Endpoint(
        "/readyz",
        "ready",
        "Whether the database answers too.",
        {200: _PLAIN, 503: _PLAIN},
        needs_token=False,
    ),
    Endpoint(
        "/metrics",
        "metrics",
        "The database's metrics, for Prometheus.",
        {200: _PLAIN, 501: {"application/json": {"$ref": "#/components/schemas/Error"}}},
    ),
)
