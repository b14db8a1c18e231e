"""The errors of the Graph API client: what failed, what to do, and what is still open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgsync.errors import PgsyncError
from pgsync.modules.whatsapp.answers import Answer, answer_to, is_ambiguous

__all__ = [
    "GraphDenied",
    "GraphError",
    "GraphInterrupted",
    "GraphPagingError",
    "GraphRefused",
    "GraphThrottled",
    "GraphUnreachable",
    "error_from_answer",
]


class GraphError(PgsyncError):
    """A call of the Graph API failed.

    ``answer`` says what to do about it. ``ambiguous`` is True only for a send that may have been
    accepted all the same: such a message must not be sent again before a status webhook or a
    person has settled it. ``retry_after`` is in seconds, None where the API named no time.
    ``code``, ``subcode``, ``fbtrace_id`` and ``details`` are the API's own, None where it sent
    none. No attribute holds the token.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        subcode: int | None = None,
        fbtrace_id: str | None = None,
        http_status: int | None = None,
        retry_after: float | None = None,
        details: str | None = None,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.fbtrace_id = fbtrace_id
        self.http_status = http_status
        self.retry_after = retry_after
        self.details = details
        self.ambiguous = ambiguous

    @property
    def answer(self) -> Answer:
        """What to do about this error."""
        return answer_to(self.code)


class GraphUnreachable(GraphError):
    """No connection could be made: the request was certainly not sent, and may be repeated."""


class GraphInterrupted(GraphError):
    """The request went out, but no readable answer came back.

    A timeout, a reset, a truncated body, one that is too large or is not the documented JSON.
    """


class GraphPagingError(GraphError):
    """A listing cannot be followed to its end, for example because a cursor came twice."""


class GraphRefused(GraphError):
    """The API answered with an error object."""


class GraphThrottled(GraphRefused):
    """Too many calls or messages; ``retry_after`` says how many seconds to wait."""


class GraphDenied(GraphRefused):
    """The token is wrong or expired, or lacks a permission: a new one is needed."""


_CLASS_BY_ANSWER: Mapping[Answer, type[GraphRefused]] = {
    Answer.STOP_APP_CALLS: GraphThrottled,
    Answer.SLOW_NUMBER: GraphThrottled,
    Answer.RETRY_RECIPIENT_LATER: GraphThrottled,
    Answer.DISABLE_CONNECTION: GraphDenied,
}

_LONGEST_TEXT = 500


def error_from_answer(
    error: Mapping[str, Any],
    *,
    http_status: int,
    retry_after: float | None,
    sending: bool,
) -> GraphRefused:
    """Build the exception for the ``error`` object of an answer.

    The API's words are shortened; the token was struck out of the whole answer before.
    """

    def text(value: object) -> str | None:
        if not isinstance(value, str) or not value:
            return None
        return value[:_LONGEST_TEXT]

    code = integer(error.get("code"))
    data = error.get("error_data")
    details = text(data.get("details")) if isinstance(data, Mapping) else None
    words = text(error.get("message")) or "the API gave no reason"
    if details and details not in words:
        words = f"{words}: {details}"
    # An error object without a code is as unreadable as no answer, and as ambiguous.
    kind = GraphRefused if code is None else _CLASS_BY_ANSWER.get(answer_to(code), GraphRefused)
    return kind(
        f"the Graph API refused the request (code {code}): {words}",
        code=code,
        subcode=integer(error.get("error_subcode")),
        fbtrace_id=text(error.get("fbtrace_id")),
        http_status=http_status,
        retry_after=retry_after,
        details=details,
        ambiguous=sending and is_ambiguous(code, http_status),
    )


def integer(value: object) -> int | None:
    """Return ``value`` if it is a whole number, also when it is written as a string."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return None
