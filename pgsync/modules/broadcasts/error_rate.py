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

    def count(self, state: str) -> None:
        """Count an outcome."""
        self._processed += state in ("sent", "failed", "unknown")
        self._failed += state == "failed"

    def look(self) -> None:
        """Count the failed ones anew, of which webhooks may have told."""
        self._failed = self._recipients.failed()

    @property
    def reason(self) -> str | None:
        """Why the campaign must pause; None while few fail."""
        if self._processed < _FROM_PROCESSED or self._failed < _MOST_FAILED * self._processed:
            return None
        return f"{self._failed} of {self._processed} messages failed"
