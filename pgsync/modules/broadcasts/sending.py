"""One message: the call, and what its answer means for the recipient and the campaign."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgsync.errors import InvalidArgument, RateLimited
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.pacing import Pace
from pgsync.modules.broadcasts.recipients import MOST_FAILURES, Claim, Recipients
from pgsync.modules.whatsapp.answers import STOPPING, Answer, pair_delay
from pgsync.modules.whatsapp.errors import GraphError, GraphUnreachable
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.graph import GraphClient
from pgsync.queues import Backoff

__all__ = ["Sender", "Verdict", "callback_data"]

_WAITS = Backoff((5.0,), longest=3600.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FINAL = frozenset({Answer.SUPPRESS_CONTACT, Answer.FAIL_RECIPIENT})
_WAITING = frozenset({Answer.STOP_APP_CALLS, Answer.SLOW_NUMBER})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a message's answer means: its recipient's ``state``, and whether sending must stop.

    ``trouble`` is what went wrong with the API itself, which has nothing to do with this message.
    """

    state: str
    message_id: str | None = None
    stop: str | None = None
    disable_connection: bool = False
    trouble: str | None = None


def callback_data(campaign: Campaign, recipient_id: int, attempt: int) -> str:
    """What the status webhooks bring back: it names the recipient and the attempt.

    The microsecond in which the campaign was made tells it from another installation's of the same
    number: both hear of all messages of an account.
    """
    made = (campaign.created_at - _EPOCH) // timedelta(microseconds=1)
    return f"campaign-{campaign.id}-{made}:{recipient_id}.{attempt}"


class Sender:
    """Sends a campaign's message to claimed recipients, each exactly once."""

    def __init__(
        self,
        graph: GraphClient,
        campaign: Campaign,
        filling: Filling,
        phone_number_id: str,
        pace: Pace | None = None,
    ) -> None:
        self._graph = graph
        self._campaign = campaign
        self._filling = filling
        self._phone_number_id = phone_number_id
        self._pace = pace

    def send(self, claim: Claim, recipients: Recipients) -> Verdict:
        """Call the API once and record the outcome."""
        wait = self._pace.pair_wait(claim.phone) if self._pace is not None else 0.0
        if wait:
            error = "this number was written to too often"
            recipients.not_sent(claim, "pending", error=error, wait=wait)
            return Verdict("pending")
        state = recipients.standing(claim)
        if state != "sending":
            return Verdict(state)
        try:
            sent = self._graph.send_template(
                self._phone_number_id,
                to=claim.phone,
                template=self._campaign.template_name,
                language=self._campaign.language,
                components=self._components(claim, recipients),
                callback_data=callback_data(self._campaign, claim.id, claim.attempt),
            )
        except RateLimited as error:
            # No permit came in time: nothing was sent.
            recipients.not_sent(claim, "pending", error=str(error), wait=error.retry_after)
            return Verdict("pending")
        except InvalidArgument as error:
            # Refused before the call, as those of all others would be.
            recipients.not_sent(claim, "pending", error=str(error))
            return Verdict("pending", stop=str(error))
        except GraphError as error:
            return self._refused(claim, recipients, error)
        # Held messages are accepted too, and never sent again.
        recipients.sent(claim, sent.message_id)
        return Verdict("sent", sent.message_id)

    def _components(self, claim: Claim, recipients: Recipients) -> list[dict[str, Any]]:
        try:
            return self._filling.components(claim.parameters, self._campaign.constants)
        except Exception:
            recipients.put_back(claim)  # Or it would seem to be under way, and become unknown.
            raise

    def _refused(self, claim: Claim, recipients: Recipients, error: GraphError) -> Verdict:
        if error.ambiguous:
            recipients.not_sent(claim, "unknown", error=str(error), code=error.code)
            return Verdict("unknown", trouble=str(error))
        answer = Answer.BACK_OFF if isinstance(error, GraphUnreachable) else error.answer
        if answer in STOPPING:
            recipients.not_sent(claim, "pending", error=str(error), code=error.code)
            disable = answer is Answer.DISABLE_CONNECTION
            return Verdict("pending", stop=str(error), disable_connection=disable)
        if answer is Answer.SUPPRESS_CONTACT:
            recipients.suppress(claim)
        # That all must wait says nothing against this recipient, however often it happens.
        counts = answer not in _WAITING
        failures = claim.failures + counts
        tired = counts and failures >= MOST_FAILURES
        state = "failed" if answer in _FINAL or tired else "pending"
        wait = _wait(answer, max(failures, 1), error.retry_after)
        recipients.not_sent(
            claim, state, error=str(error), code=error.code, wait=wait, counts=counts
        )
        return Verdict(state, trouble=str(error) if answer is Answer.BACK_OFF else None)


def _wait(answer: Answer, failures: int, retry_after: float | None) -> float:
    if answer is Answer.RETRY_RECIPIENT_LATER:
        return max(pair_delay(failures), retry_after or 0.0)
    if retry_after is not None:
        return retry_after
    return _WAITS.base(failures)
