"""Maintenance: the house-keeping that one process does for all, whoever leads.

Which duties there are, and how each is done once at a time, is in ``sql/api/9_maintenance.sql``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from pgsync.database.calls import Call, Listing, nothing, scalar
from pgsync.database.pool import execute_async
from pgsync.database.session import answering_within, open_session_async
from pgsync.locks import default_owner
from pgsync.pauses import spread

__all__ = ["LANES", "Lane", "Maintenance", "record_duty"]

logger = logging.getLogger("pgsync.maintenance")


@dataclass(frozen=True, slots=True)
class Lane:
    """Duties that are done one after another, on one session.

    ``lead_every`` is how often the others ask for the lead, in seconds. A leader that is frozen
    says nothing for ``silence`` seconds: then the server ends its session, and another leads. A
    call that takes ``longest`` seconds is cancelled.
    """

    name: str
    lead_every: float
    silence: float
    longest: float


LANES = (
    # A leader that was killed must be followed, and its jobs rescued, within two seconds.
    Lane("quick", 0.5, 10.0, 60.0),
    Lane("slow", 5.0, 60.0, 300.0),
)

# The server cancels a call that takes too long, and says so; a vanished one says nothing.
_MORE_THAN_THE_SERVER = 10.0
# What is due so soon is done in the same call.
_TOGETHER = 0.05


@dataclass(slots=True)
class _Duty:
    name: str
    every: float
    again: float | None
    due_at: float = 0.0
    going: bool = False


class Maintenance:
    """Does a lane's duties while its session leads; any number of processes may stand by."""

    def __init__(self, dsn: str, lane: Lane) -> None:
        self._dsn = dsn
        self._lane = lane

    async def run(self) -> None:
        """Lead or stand by, until cancelled. A broken connection ends it with an error."""
        name = f"pgsync maintenance {self._lane.name}"
        async with await open_session_async(self._dsn, name) as connection:
            await execute_async(connection, _bounds(self._lane))
            await self._lead(connection)
            duties = await execute_async(connection, _duties(self._lane.name))
            clock = asyncio.get_running_loop().time
            while True:
                first = min(duty.due_at for duty in duties)
                await asyncio.sleep(max(0.0, first - clock()))
                now = clock()
                due = [duty for duty in duties if duty.due_at <= now + _TOGETHER]
                done = await _do(connection, due, self._lane.longest)
                for duty in due:
                    _note(duty, done.get(duty.name), clock())

    async def _lead(self, connection: psycopg.AsyncConnection[Any]) -> None:
        lead = Call("SELECT pgsync.lead_maintenance(%(lane)s)", {"lane": self._lane.name}, scalar)
        while True:
            with answering_within(connection, self._lane.longest):
                if await execute_async(connection, lead):
                    return
            await asyncio.sleep(spread(self._lane.lead_every, 0.2))


async def _do(
    connection: psycopg.AsyncConnection[Any], due: list[_Duty], longest: float
) -> Mapping[str, Any]:
    try:
        with answering_within(connection, longest + _MORE_THAN_THE_SERVER):
            return await execute_async(connection, _do_duties([duty.name for duty in due]))
    except psycopg.errors.QueryCanceled as error:
        # One took too long; other errors are caught, and noted, by the procedure.
        done: dict[str, Any] = {}
        if len(due) > 1:  # Alone each shows whether it is the one, and the rest is done.
            for duty in due:
                done |= await _do(connection, [duty], longest)
            return done
        (duty,) = due
        reason = f"cancelled: {error}"
        await execute_async(connection, record_duty(duty.name, longest, 0, reason))
        return {duty.name: reason}


def _note(duty: _Duty, done: int | str | None, now: float) -> None:
    duty.due_at = now + duty.every
    if isinstance(done, str):
        logger.warning("%s failed: %s", duty.name, done)
    elif duty.again is None:
        if done:
            logger.info("%s: %s", duty.name, done)
    else:
        if bool(done) != duty.going:
            logger.info("%s: %s", duty.name, done or 0)
            duty.going = bool(done)
        if done:
            duty.due_at = now + duty.again


def _bounds(lane: Lane) -> Call[None]:
    return Call(
        "SELECT set_config('idle_session_timeout', %(silence)s, false),"
        " set_config('statement_timeout', %(longest)s, false)",
        {"silence": f"{lane.silence:g}s", "longest": f"{lane.longest:g}s"},
        nothing,
    )


def _duties(lane: str) -> Listing[_Duty]:
    return Listing(
        "SELECT d.duty, extract(epoch FROM d.every)::float8, extract(epoch FROM d.again)::float8"
        " FROM pgsync.duties() AS d WHERE d.lane = %(lane)s",
        {"lane": lane},
        lambda row: _Duty(*row),
    )


def _do_duties(names: list[str]) -> Call[Mapping[str, Any]]:
    return Call(
        "CALL pgsync.do_duties(%(names)s, %(by)s)",
        {"names": names, "by": default_owner()},
        scalar,
    )


def record_duty(duty: str, seconds: float, rows: int, error: str | None) -> Call[None]:
    """Note what was done apart from the procedure, and how long it took."""
    return Call(
        "SELECT pgsync.record_duty(%(duty)s, %(by)s, pgsync.clock(), %(duration)s, %(rows)s,"
        " %(error)s)",
        {
            "duty": duty,
            "by": default_owner(),
            "duration": timedelta(seconds=seconds),
            "rows": rows,
            "error": error,
        },
        nothing,
    )
