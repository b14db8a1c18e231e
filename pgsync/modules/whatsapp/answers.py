"""What to do about each error code of the Graph API: one table.

The decision is made by ``error.code``, never by the HTTP status or the title: sources disagree on
the statuses, and the titles are to be withdrawn.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "STOPPING",
    "TABLE",
    "Ambiguity",
    "Answer",
    "Row",
    "answer_to",
    "default_wait",
    "is_ambiguous",
    "pair_delay",
    "whose_limit",
]


class Answer(enum.StrEnum):
    """What the caller does about an error; the value is the word that is stored and shown."""

    STOP_APP_CALLS = "stop_app_calls"
    """No more calls of this app or account until the usage header says so."""
    SLOW_NUMBER = "slow_number"
    """This phone number sends too fast: slow it, then try again."""
    RETRY_RECIPIENT_LATER = "retry_recipient_later"
    """Too many messages to this recipient: again after :func:`pair_delay`."""
    BACK_OFF = "back_off"
    """The API is in trouble: try again, later each time."""
    PAUSE_CAMPAIGN = "pause_campaign"
    """The account is restricted or cannot pay: pause the campaign and alert."""
    DISABLE_CONNECTION = "disable_connection"
    """The token or its rights are gone: disable the connection and alert."""
    FAIL_RECIPIENT = "fail_recipient"
    """This recipient failed for good; the others go on."""
    RETRY_RECIPIENT_TOMORROW = "retry_recipient_tomorrow"
    """This recipient again in 24 hours, or later."""
    SUPPRESS_CONTACT = "suppress_contact"
    """The person opted out: never send marketing to this contact again."""
    STOP_EARLY_TEMPLATE = "stop_early_template"
    """The template or its parameters are wrong for every recipient: stop before the next one."""
    PAUSE_TEMPLATE = "pause_template"
    """The template is paused or disabled: pause the campaigns that use it."""
    REGISTRATION = "registration"
    """Concerns the registration of a phone number only, never a send or a sync."""


STOPPING = frozenset(
    {
        Answer.PAUSE_CAMPAIGN,
        Answer.DISABLE_CONNECTION,
        Answer.STOP_EARLY_TEMPLATE,
        Answer.PAUSE_TEMPLATE,
        Answer.REGISTRATION,
    }
)
"""The next message would fare as this one: nothing else is sent."""


class Ambiguity(enum.Enum):
    """Whether an error answer to a send leaves open that the message was accepted."""

    NO = "no"
    """The answer says that the message was refused."""
    SERVER_ERROR = "server_error"
    """Refused, unless it came with an HTTP status of 500 or above."""
    YES = "yes"
    """The API itself does not know."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: these codes ask for this answer.

    ``wait`` is how many seconds to wait where the API's answer names no time.
    """

    codes: tuple[int, ...]
    answer: Answer
    ambiguity: Ambiguity = Ambiguity.NO
    wait: float | None = None


def _codes(*codes: int | Iterable[int]) -> tuple[int, ...]:
    flat: list[int] = []
    for code in codes:
        flat.extend([code] if isinstance(code, int) else code)
    return tuple(flat)


TABLE: tuple[Row, ...] = (
    Row(_codes(4, 17, 32, 613, 80007), Answer.STOP_APP_CALLS, wait=60.0),
    Row(_codes(130429), Answer.SLOW_NUMBER, wait=5.0),
    Row(_codes(131056), Answer.RETRY_RECIPIENT_LATER),
    Row(_codes(131000), Answer.BACK_OFF, Ambiguity.YES),
    Row(_codes(1, 2, 131016), Answer.BACK_OFF, Ambiguity.SERVER_ERROR),
    Row(_codes(131057), Answer.BACK_OFF),
    Row(_codes(368, 131031, 131042, 131048, 131064), Answer.PAUSE_CAMPAIGN),
    Row(_codes(0, 3, 10, 190, range(200, 300)), Answer.DISABLE_CONNECTION),
    Row(_codes(130472, 131021, 131026, 131030, 131047), Answer.FAIL_RECIPIENT),
    Row(_codes(131049), Answer.RETRY_RECIPIENT_TOMORROW, wait=86400.0),
    Row(_codes(131050), Answer.SUPPRESS_CONTACT),
    Row(
        _codes(132000, 132001, 132005, 132007, 132008, 132012, 132018),
        Answer.STOP_EARLY_TEMPLATE,
    ),
    Row(_codes(132015, 132016), Answer.PAUSE_TEMPLATE),
    Row(_codes(133016), Answer.REGISTRATION),
)

_UNKNOWN = Row((), Answer.FAIL_RECIPIENT, Ambiguity.SERVER_ERROR)
"""A code that is not in the table: this recipient fails and is not sent to again. A campaign that
meets it everywhere pauses by its error rate."""

_NO_CODE = Row((), Answer.BACK_OFF, Ambiguity.YES)
"""No readable answer at all: nothing is known about this send, and the API seems unwell."""

_APP_LIMIT = 4

_BY_CODE = {code: row for row in TABLE for code in row.codes}


def _row(code: int | None) -> Row:
    return _NO_CODE if code is None else _BY_CODE.get(code, _UNKNOWN)


def answer_to(code: int | None) -> Answer:
    """Return what to do about error ``code``; None stands for an answer without a code."""
    return _row(code).answer


def is_ambiguous(code: int | None, http_status: int | None) -> bool:
    """Return whether a send that was answered so may have been accepted all the same."""
    ambiguity = _row(code).ambiguity
    if ambiguity is Ambiguity.SERVER_ERROR:
        return http_status is not None and http_status >= 500
    return ambiguity is Ambiguity.YES


def default_wait(code: int | None) -> float | None:
    """Return the seconds to wait after ``code`` where the API names no time, or None."""
    return _row(code).wait


def whose_limit(code: int | None) -> Literal["number", "account", "app"]:
    """Return who shares the limit of calls that was met; None stands for a header alone."""
    if code == _APP_LIMIT:
        return "app"
    return "account" if code is None or answer_to(code) is Answer.STOP_APP_CALLS else "number"


def pair_delay(failures: int) -> float:
    """Return the seconds to wait before this recipient is tried again after code 131056.

    The API asks for 4 to the power of n, where n is 0 at the first failure; 24 hours at most.
    ``failures`` counts the failures so far, from 1.
    """
    return min(4.0 ** min(max(failures - 1, 0), 16), 86400.0)
