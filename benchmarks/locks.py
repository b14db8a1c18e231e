"""Locks: an uncontended pair beside the bare advisory pair."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from benchmarks.frame import Comparison, Contender, compare
from pgsync import Coordinator

__all__ = ["measure"]

_PAIRS = 300


def measure(dsn: str, rounds: int) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    with psycopg.connect(dsn, autocommit=True) as raw, Coordinator(dsn) as sync:

        def bare_pair() -> int:
            for number in range(_PAIRS):
                raw.execute("SELECT pg_try_advisory_lock(%s)", [number])
                raw.execute("SELECT pg_advisory_unlock(%s)", [number])
            return _PAIRS

        def lock_pair() -> int:
            for number in range(_PAIRS):
                with sync.lock(f"bench:{number}", ttl=60):
                    pass
            return _PAIRS

        yield compare(
            "lock + unlock, one thread",
            [Contender("bare advisory pair", bare_pair), Contender("pgsync", lock_pair)],
            rounds,
        )
