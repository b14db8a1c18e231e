"""What the stand-in knows: accounts and tokens, and the parts that all requests share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.envelopes import status_envelope, template_envelope
from pgsync.modules.whatsapp.standin.faults import Faults
from pgsync.modules.whatsapp.standin.ledger import Ledger, Message
from pgsync.modules.whatsapp.standin.problems import Refusal
from pgsync.modules.whatsapp.standin.throttles import Throttles
from pgsync.modules.whatsapp.standin.webhooks import Webhooks

__all__ = ["Account", "World"]


@dataclass(slots=True)
class Account:
    """A WhatsApp Business Account: its templates and its phone numbers (id to shown number)."""

    waba_id: str
    templates: Catalogue
    numbers: dict[str, str]


@dataclass
class World:
    """All state of one stand-in."""

    ledger: Ledger
    webhooks: Webhooks
    latency: float = 0.0
    faults: Faults = field(default_factory=Faults)
    throttles: Throttles = field(default_factory=Throttles)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, set[str]] = {}
        self._expired: set[str] = set()

    def add_account(
        self, waba_id: str, phone_number_ids: Iterable[str], templates: int, token: str
    ) -> Account:
        """Add an account that ``token`` may use; a token may have several accounts."""
        with self._lock:
            if waba_id in self._accounts:
                raise ValueError(f"account {waba_id} exists already")
            place = len(self._accounts) + 1
            numbers = {
                phone_id: f"+1555{place:03d}{number:04d}"
                for number, phone_id in enumerate(phone_number_ids, 1)
            }
            account = Account(waba_id, Catalogue(place * 10**15, templates), numbers)
            self._accounts[waba_id] = account
            self._tokens.setdefault(token, set()).add(waba_id)
            return account

    def accounts(self) -> list[Account]:
        """Return all accounts in the order they were added."""
        with self._lock:
            return list(self._accounts.values())

    def expire(self, token: str) -> None:
        """Let ``token`` be answered as an expired one."""
        with self._lock:
            self._expired.add(token)

    def restore(self, token: str) -> None:
        """Let ``token`` work again."""
        with self._lock:
            self._expired.discard(token)

    def allowed(self, token: str | None) -> list[Account]:
        """Return the accounts that ``token`` may use.

        Raises:
            Refusal: code 190 for a missing, unknown or expired token.
        """
        with self._lock:
            if token in self._expired:
                raise Refusal(
                    190,
                    subcode=463,
                    message="Error validating access token: Session has expired.",
                )
            if token is None or token not in self._tokens:
                raise Refusal(
                    190,
                    subcode=None if token is None else 467,
                    message="Invalid OAuth access token - Cannot parse access token",
                )
            return [self._accounts[waba_id] for waba_id in self._tokens[token]]

    def display_number(self, phone_number_id: str) -> str:
        """Return the number that people see, or an empty string for an unknown id."""
        for account in self.accounts():
            if phone_number_id in account.numbers:
                return account.numbers[phone_number_id]
        return ""

    def status_webhook(
        self, message_id: str, status: str, code: int | None = None
    ) -> dict[str, Any]:
        """Build the webhook of one status. Raises KeyError for an unknown message."""
        message = self.ledger.message(message_id)
        number = self.display_number(message.phone_number_id)
        return status_envelope(message, status, display_number=number, code=code)

    def template_webhook(
        self, template_id: str, name: str, value: dict[str, Any]
    ) -> dict[str, Any]:
        """Build a webhook about a template. Raises KeyError for an unknown one."""
        for account in self.accounts():
            template = account.templates.get(template_id)
            if template is not None:
                return template_envelope(account.waba_id, template, name, value)
        raise KeyError(template_id)

    def follow_up(self, message: Message) -> Callable[[], None] | None:
        """Let the planned webhooks of an accepted message go out.

        Return what must be run before the answer to the send, where the plan has an early one.
        """
        plan = self.webhooks.plan
        if plan is None or self.webhooks.url is None or message.status != "accepted":
            return None
        number = self.display_number(message.phone_number_id)
        envelopes = [
            status_envelope(message, status, display_number=number, code=code)
            for status, code in plan.series(message.to)
        ]
        if not plan.early:
            for envelope in envelopes:
                self.webhooks.put(envelope, plan.delay)
            return None

        def early() -> None:
            for place, envelope in enumerate(envelopes):
                if place == 0:
                    self.webhooks.post(envelope)
                else:
                    self.webhooks.put(envelope, plan.delay)

        return early
