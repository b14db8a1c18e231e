"""The Graph API's error answers: for each code the HTTP status, the title and the details."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PROBLEMS", "Problem", "Refusal", "error_body"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One documented error: its usual HTTP status, its title and what ``details`` says."""

    status: int
    title: str
    details: str = ""


class Refusal(Exception):
    """A request that the stand-in refuses with an error answer.

    ``message`` replaces the whole text of the answer where the API words it in its own way.
    """

    def __init__(
        self,
        code: int,
        details: str = "",
        *,
        subcode: int | None = None,
        message: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, details)
        self.status = status if status is not None else problem(code).status
        self.body = error_body(code, details, subcode=subcode, message=message)
        self.headers = dict(headers or {})


def problem(code: int) -> Problem:
    """Return what is documented about ``code``, or a plain 400 for an unknown one."""
    if 200 <= code <= 299:
        return Problem(403, "API Permission", "Permission is not granted or has been removed.")
    return PROBLEMS.get(code, Problem(400, "Unknown error"))


def error_body(
    code: int,
    details: str = "",
    *,
    subcode: int | None = None,
    message: str | None = None,
) -> dict[str, Any]:
    """Build the body of an error answer as the API sends it."""
    known = problem(code)
    error: dict[str, Any] = {
        "message": message or f"(#{code}) {known.title}",
        "type": "OAuthException",
        "code": code,
    }
    # Only the messaging errors carry error_data; the platform's own ones explain in the message.
    if code >= 130000 or details:
        error["error_data"] = {
            "messaging_product": "whatsapp",
            "details": details or known.details or known.title,
        }
    if subcode is not None:
        error["error_subcode"] = subcode
    error["fbtrace_id"] = "A" + secrets.token_urlsafe(16)
    return {"error": error}


PROBLEMS: dict[int, Problem] = {
    0: Problem(401, "AuthException", "The app user could not be authenticated."),
    1: Problem(400, "API Unknown", "Invalid request or possible server error."),
    2: Problem(503, "API Service", "Temporary due to downtime or due to being overloaded."),
    3: Problem(500, "API Method", "Capability or permissions issue."),
    4: Problem(400, "API Too Many Calls", "The app has reached its API call rate limit."),
    10: Problem(403, "Permission Denied", "Permission is not granted or has been removed."),
    17: Problem(400, "User request limit reached"),
    32: Problem(400, "Page request limit reached"),
    33: Problem(400, "Parameter value is not valid"),
    100: Problem(400, "Invalid parameter"),
    190: Problem(401, "Access token has expired"),
    368: Problem(403, "Temporarily blocked for policies violations"),
    613: Problem(400, "Calls to this api have exceeded the rate limit."),
    2500: Problem(400, "Unknown path components"),
    80007: Problem(400, "Rate limit issues", "The account has reached its rate limit."),
    130429: Problem(400, "Rate limit hit", "Message throughput has been reached."),
    130472: Problem(400, "User's number is part of an experiment"),
    131000: Problem(500, "Something went wrong", "The message was not sent: unknown error."),
    131005: Problem(403, "Access denied"),
    131008: Problem(400, "Required parameter is missing"),
    131009: Problem(400, "Parameter value is not valid"),
    131016: Problem(500, "Service unavailable", "A service is temporarily unavailable."),
    131021: Problem(400, "Recipient cannot be sender"),
    131026: Problem(400, "Message undeliverable", "Unable to deliver the message."),
    131030: Problem(400, "Recipient phone number not in allowed list"),
    131031: Problem(403, "Account has been locked"),
    131042: Problem(400, "Business eligibility payment issue"),
    131047: Problem(400, "Re-engagement message", "More than 24 hours have passed."),
    131048: Problem(400, "Spam rate limit hit"),
    131049: Problem(400, "Meta chose not to deliver the message", "Healthy ecosystem engagement."),
    131050: Problem(400, "Recipient has stopped marketing messages"),
    131051: Problem(400, "Unsupported message type"),
    131056: Problem(400, "Business account, consumer account pair rate limit hit"),
    131057: Problem(500, "Account in maintenance mode"),
    131064: Problem(400, "Messaging is restricted"),
    132000: Problem(400, "Number of parameters does not match the expected number of params"),
    132001: Problem(404, "Template name does not exist in the translation"),
    132005: Problem(400, "Translated text too long"),
    132007: Problem(400, "Template format character policy violated"),
    132008: Problem(400, "Template parameter format is not valid"),
    132012: Problem(400, "Parameter format does not match format in the created template"),
    132015: Problem(400, "Template is paused"),
    132016: Problem(400, "Template is disabled"),
    132018: Problem(400, "There is an issue with the parameters in the template"),
    133010: Problem(400, "Phone number not registered"),
    133016: Problem(400, "Account register deregister rate limit exceeded"),
}
