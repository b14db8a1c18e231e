"""What handlers tell of their progress, on its way to the database."""

from __future__ import annotations

import asyncio

from pgsync.daemon.link import WorkerLink
from pgsync.queues import JobContext
from pgsync.queues.work import report_progress

__all__ = ["Progress"]

_SECONDS = 1.0


class Progress:
    """Sends the last word of each job, about once a second and all in one statement."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._told: dict[int, tuple[JobContext, str]] = {}

    def tell(self, context: JobContext, progress: str) -> None:
        """Keep the last word of a job, in any thread."""
        self._told[context.id] = context, progress

    async def run(self) -> None:
        """Send what was told, until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            words: dict[int, list[tuple[int, int, str]]] = {}
            while self._told:  # one by one, as threads go on telling
                context, text = self._told.popitem()[1]
                words.setdefault(context.worker, []).append((context.id, context.attempt, text))
            for worker, told in words.items():
                await self._link.run(report_progress(worker, told))
