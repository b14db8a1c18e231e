"""Work in several threads at once, to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["at_once"]


def at_once(works: Iterable[Callable[[], object]], within: float | None = 60.0) -> None:
    """Begin each in a thread of its own, and wait for all; fail if one has not ended in time.

    None is as long as it takes. What one raises is pytest's to tell.
    """
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within)
    assert not any(thread.is_alive() for thread in threads), f"not done within {within} s"
