"""Word to systemd, where it started this process: sd_notify(3), over a Unix socket."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["sd_notify", "watchdog_seconds"]


def sd_notify(state: str) -> None:
    """Send ``READY=1``, ``STOPPING=1`` or the like; nothing where systemd does not wait for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract one
        address = "\0" + address[1:]
    # No service fails because nobody hears this.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(1.0)
        line.connect(address)
        line.send(state.encode())


def watchdog_seconds() -> float | None:
    """Within how many seconds systemd must hear ``WATCHDOG=1`` again and again, if it must."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None
    with suppress(ValueError):
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
        return microseconds / 1e6 if microseconds > 0 else None
    return None
