"""When a campaign stops by itself, since too many of its messages fail."""

from __future__ import annotations

from pgsync.modules.broadcasts.recipients import Recipients

__all__ = ["ErrorRate"]

_FROM_PROCESSED = 20
_MOST_FAILED = 0.20


class ErrorRate:
    """The failed among those that were processed since the campaign was last started.

    What this run sees is counted here; failures that webhooks tell of are :meth:`look`'d for.
    """

    def __init__(self, recipients: Recipients) -> None:
        self._recipients = recipients
        self._processed, self._failed = recipients.processed()
        self._stored = self._failed

    def count(self, state: str) -> None:
        """Count an outcome."""
        self._processed += state in ("sent", "failed", "unknown")
        self._failed += state == "failed"

    def look(self) -> None:
        """See how many failures are stored: webhooks may have told of some."""
        self._stored = self._recipients.failed()

    @property
    def reason(self) -> str | None:
        """Why the campaign must pause; None while few fail."""
        # What is stored may be counted later than it is seen, and must not be counted twice.
        failed = max(self._failed, self._stored)
        if self._processed < _FROM_PROCESSED or failed < _MOST_FAILED * self._processed:
            return None
        return f"{failed} of {self._processed} messages failed"
