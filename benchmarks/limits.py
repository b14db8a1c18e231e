"""Rate limits: a hot key beside a bare counter upsert."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from benchmarks.frame import Comparison, Contender, compare
from pgsync import Coordinator, Limit

__all__ = ["measure"]

_HITS = 500


def measure(dsn: str, rounds: int) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    with psycopg.connect(dsn, autocommit=True) as raw, Coordinator(dsn) as sync:
        raw.execute("SET synchronous_commit = off")
        raw.execute("CREATE TABLE bench_counter (key text PRIMARY KEY, hits bigint NOT NULL)")
        limiter = sync.limiter("bench", Limit(2_000_000_000, per=86400))
        full = sync.limiter("full", Limit(1, per=86400))

        def upsert() -> int:
            for _ in range(_HITS):
                raw.execute(
                    "INSERT INTO bench_counter AS c VALUES ('hot', 1)"
                    " ON CONFLICT (key) DO UPDATE SET hits = c.hits + 1 RETURNING hits"
                )
            return _HITS

        def hits() -> int:
            for _ in range(_HITS):
                limiter.hit("hot")
            return _HITS

        def denials() -> int:
            for _ in range(_HITS):
                full.hit("hot")
            return _HITS

        yield compare(
            "limiter, one hot key, one thread",
            [
                Contender("bare counter upsert", upsert),
                Contender("pgsync, allowed", hits),
                Contender("pgsync, denied", denials),
            ],
            rounds,
        )
