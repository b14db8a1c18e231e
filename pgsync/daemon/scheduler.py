"""The scheduler: enqueues what is due. Any number may run; each fire passes once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from pgsync.database.drive import drive_async
from pgsync.database.pool import execute_async
from pgsync.database.session import open_session_async
from pgsync.schedules import ScheduleDeclaration, declare_plan, fire_due_plan
from pgsync.schedules.calls import next_schedule_at

__all__ = ["Scheduler"]

logger = logging.getLogger("pgsync.scheduler")

# A schedule that is declared or changed elsewhere is seen within this time.
_LONGEST_SLEEP = 2.0


class Scheduler:
    """Declares the schedules of this process, then fires all that the table holds."""

    def __init__(self, dsn: str, declarations: Iterable[ScheduleDeclaration] = ()) -> None:
        self._dsn = dsn
        self._declarations = tuple(declarations)

    async def run(self) -> None:
        """Fire what is due, until cancelled. A broken connection ends it with an error."""
        async with await open_session_async(self._dsn, "pgsync scheduler") as connection:
            run = partial(execute_async, connection)
            for declaration in self._declarations:
                if await drive_async(declare_plan(declaration), run):
                    logger.info("schedule %r was declared or changed", declaration.name)
            while True:
                if fired := await drive_async(fire_due_plan(), run):
                    logger.info("enqueued %s scheduled jobs", fired)
                due_at, now = await execute_async(connection, next_schedule_at())
                pause = _LONGEST_SLEEP if due_at is None else (due_at - now).total_seconds()
                await asyncio.sleep(min(max(pause, 0.0), _LONGEST_SLEEP))
