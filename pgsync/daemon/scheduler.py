"""The scheduler: enqueues what is due. Any number may run; each fire passes once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

import psycopg

from pgsync.daemon.maintenance import record_duty
from pgsync.database.calls import Call, nothing
from pgsync.database.drive import drive_async
from pgsync.database.pool import execute_async
from pgsync.database.session import answering_within, open_session_async
from pgsync.pauses import Pauses
from pgsync.schedules import ScheduleDeclaration, declare_plan, fire_due_plan
from pgsync.schedules.calls import next_schedule_at

__all__ = ["Scheduler"]

logger = logging.getLogger("pgsync.scheduler")

# A schedule that is declared or changed elsewhere is seen within this time.
_LONGEST_SLEEP = 2.0
# Of the server, for all that is asked between two sleeps.
_LONGEST_SILENCE = 60.0
# The daemons of a newer version of the app may have gone: then this one's schedules hold again.
_DECLARE_SECONDS = 60.0


class Scheduler:
    """Declares the schedules of this process's app, then fires all that the table holds."""

    def __init__(
        self, dsn: str, declarations: Iterable[ScheduleDeclaration] = (), app: str | None = None
    ) -> None:
        self._dsn = dsn
        self._declarations = tuple(declarations)
        self._app = app
        self._starting = True
        self._jobs = 0
        self._longest = 0.0
        self._failure: str | None = None

    async def run(self) -> None:
        """Fire what is due, until cancelled. A broken connection ends it with an error."""
        async with await open_session_async(self._dsn, "pgsync scheduler") as connection:
            await execute_async(connection, _let_go_when_frozen())
            try:
                await self._run(connection)
            except Exception as error:
                self._failure = str(error)  # Noted when there is a connection again.
                raise

    async def _run(self, connection: psycopg.AsyncConnection[Any]) -> None:
        clock = asyncio.get_running_loop().time
        declare_at = clock()
        # Others have taken what is due, or will be through with it soon; or keep it locked.
        pauses = Pauses(0.1, _LONGEST_SLEEP)
        while True:
            with answering_within(connection, _LONGEST_SILENCE):
                if clock() >= declare_at:
                    await self._declare(connection)
                    await self._note(connection)
                    declare_at = clock() + _DECLARE_SECONDS
                due_at, now = await execute_async(connection, next_schedule_at())
                pause = _LONGEST_SLEEP if due_at is None else (due_at - now).total_seconds()
                if pause <= 0:
                    if await self._fire(connection):
                        pauses.reset()
                        continue
                    pause = next(pauses)
            await asyncio.sleep(min(pause, _LONGEST_SLEEP))

    async def _fire(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        began = asyncio.get_running_loop().time()
        async with connection.transaction():
            run = partial(execute_async, connection)
            schedules, jobs = await drive_async(fire_due_plan(), run)
        self._jobs += jobs
        self._longest = max(self._longest, asyncio.get_running_loop().time() - began)
        return schedules > 0

    async def _note(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Tell the view of the maintenance what was done in the last minute, if anything was."""
        if self._jobs or self._failure:
            call = record_duty("fire schedules", self._longest, self._jobs, self._failure)
            await execute_async(connection, call)
            self._jobs, self._longest, self._failure = 0, 0.0, None

    async def _declare(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if not self._declarations and self._app is None:
            return
        plan = declare_plan(self._declarations, self._app, starting=self._starting)
        done = await drive_async(plan, partial(execute_async, connection))
        self._starting = False
        if done.changed:
            logger.info("schedules declared or changed: %s", ", ".join(done.changed))
        if done.disabled:
            logger.warning(
                "schedules disabled, as the code of %s has them no more: %s",
                self._app,
                ", ".join(done.disabled),
            )
        if done.refused:
            logger.error(
                "schedules that belong to another app, whose daemons live: %s; name them otherwise",
                ", ".join(done.refused),
            )


def _let_go_when_frozen() -> Call[None]:
    # A daemon that is stopped between taking and firing would keep what it has taken.
    return Call(
        "SELECT set_config('idle_in_transaction_session_timeout', '5000', false)", {}, nothing
    )
