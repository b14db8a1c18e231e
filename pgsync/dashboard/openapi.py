"""The OpenAPI document of the API, made of the endpoints as they are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgsync.dashboard.api import ENDPOINTS, Endpoint, Parameter, Schema
from pgsync.version import __version__

__all__ = ["document"]

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_JSON_ERROR: Mapping[str, Schema] = {"application/json": {"$ref": "#/components/schemas/Error"}}
_SAID = {
    200: "The answer.",
    304: "It is as it was.",
    400: "A parameter does not fit; the error names it.",
    401: "The token is missing or wrong.",
    501: "The library that writes metrics is not installed.",
    503: "The database did not answer, or not in time.",
}


def document(root: str) -> dict[str, Any]:
    """OpenAPI 3.1; ``root`` is the path that the dashboard is mounted under."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pgsync",
            "version": __version__,
            "description": "What the dashboard shows, for programs. Times are ISO 8601,"
            " durations are seconds, and values that are secret are hidden.",
        },
        "servers": [{"url": root}],
        "paths": {endpoint.path: {"get": _operation(endpoint)} for endpoint in ENDPOINTS},
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers: dict[int, Mapping[str, Schema] | None] = dict(endpoint.answers)
    if endpoint.needs_token:
        answers.setdefault(401, _JSON_ERROR)
        answers.setdefault(503, _JSON_ERROR)
    if endpoint.parameters:
        answers.setdefault(400, _JSON_ERROR)
    found: dict[str, Any] = {
        "operationId": endpoint.path.strip("/").partition("/{")[0].replace("/", "_"),
        "summary": endpoint.summary,
        "parameters": [_parameter(each) for each in endpoint.parameters],
        "responses": {
            str(status): _answer(endpoint, status, content)
            for status, content in sorted(answers.items())
        },
        "security": [{"token": []}] if endpoint.needs_token else [],
    }
    return found


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.schema
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "required": parameter.place == "path",
        "schema": {"type": "array", "items": schema} if parameter.repeats else schema,
    }


def _answer(
    endpoint: Endpoint, status: int, content: Mapping[str, Schema] | None
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _SAID[status]}
    if content is not None:
        answer["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    if status == 200 and endpoint.headers:
        answer["headers"] = {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in endpoint.headers.items()
        }
    return answer
