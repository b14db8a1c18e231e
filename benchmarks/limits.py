"""Rate limits: a hot key beside a bare counter upsert."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from benchmarks.frame import Comparison, Contender, Pace, compare
from benchmarks.peers import Peers
from pgsync import Coordinator, Limit

__all__ = ["measure"]

_HITS = 500


def measure(dsn: str, pace: Pace, _peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    count = pace.count(_HITS)
    with psycopg.connect(dsn, autocommit=True) as raw, Coordinator(dsn) as sync:
        raw.execute("SET synchronous_commit = off")
        raw.execute("CREATE TABLE bench_counter (key text PRIMARY KEY, hits bigint NOT NULL)")
        limiter = sync.limiter("bench", Limit(2_000_000_000, per=86400))
        full = sync.limiter("full", Limit(1, per=86400))

        def upsert() -> int:
            for _ in range(count):
                raw.execute(
                    "INSERT INTO bench_counter AS c VALUES ('hot', 1)"
                    " ON CONFLICT (key) DO UPDATE SET hits = c.hits + 1 RETURNING hits"
                )
            return count

        def hits() -> int:
            for _ in range(count):
                limiter.hit("hot")
            return count

        def denials() -> int:
            for _ in range(count):
                full.hit("hot")
            return count

        yield compare(
            "limiter, one hot key, one thread",
            [
                Contender("bare counter upsert", upsert),
                Contender("pgsync, allowed", hits),
                Contender("pgsync, denied", denials),
            ],
            pace.rounds,
        )
