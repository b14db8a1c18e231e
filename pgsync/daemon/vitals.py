"""How a process is: what its health page and metrics say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pgsync.counts import Labels

__all__ = ["HEARD_WITHIN", "Vitals"]

HEARD_WITHIN = 30.0
"""A process that has not heard of the database for so many seconds is not ready."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """``unready`` says why it is not ready, if it is not; ``listening`` whether word of new jobs
    reaches it, None where it waits for none; ``counts`` is what it has counted since it began."""

    unready: str | None
    listening: bool | None = None
    counts: Counter[tuple[str, Labels]] = field(default_factory=Counter)

    @staticmethod
    def of_all(processes: Iterable[Vitals], ended: Counter[tuple[str, Labels]]) -> Vitals:
        """Of a tree of processes: as well as its worst; counts of those that ended included."""
        counts = ended.copy()
        unready, listening = None, None
        for each in processes:
            counts.update(each.counts)
            unready = unready or each.unready
            if each.listening is not None:
                listening = each.listening and listening is not False
        return Vitals(unready, listening, counts)
