"""The exit codes that scripts are promised, beside 0."""

from __future__ import annotations

__all__ = ["CANNOT", "FAILED", "INTERRUPTED", "NOTHING", "UNHEALTHY"]

FAILED = 1
CANNOT = 2
"""Wrong usage, or no way to the database."""
NOTHING = 3
"""Not acquired or limited, or nothing there that could be acted on."""
UNHEALTHY = 4
INTERRUPTED = 130
"""By Ctrl-C, as shells have it."""
