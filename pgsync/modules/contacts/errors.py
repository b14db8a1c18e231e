"""What can be wrong with a file of contacts as a whole, and with one row of it."""

from __future__ import annotations

from pgsync.errors import PgsyncError

__all__ = [
    "EMPTY_OR_INVALID",
    "ERRORS_SHOWN",
    "INVALID_PHONE",
    "MISSING_PHONE",
    "ContactFileError",
    "in_row",
]

EMPTY_OR_INVALID = "CSV file is empty or invalid"
MISSING_PHONE = "Missing phone number or WhatsApp ID"
INVALID_PHONE = "Invalid phone number/WhatsApp ID format"

ERRORS_SHOWN = 20
"""So many messages are in a result; a file of refused rows has all."""


class ContactFileError(PgsyncError, ValueError):
    """The file as a whole cannot be read or written; no contact was changed."""


def in_row(row: int, reason: str) -> str:
    """A reason with the row that it is about, counted as a spreadsheet counts (header: 1)."""
    return f"Row {row}: {reason}"
