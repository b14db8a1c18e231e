"""Maintenance: the house-keeping that one process does for all, whoever leads."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from pgsync.daemon.link import SILENCE
from pgsync.database.calls import Call, scalar
from pgsync.database.pool import execute_async
from pgsync.database.session import open_session_async
from pgsync.queues.work import promote_due_jobs, rescue_jobs

__all__ = ["DUTIES", "Duty", "Maintenance"]

logger = logging.getLogger("pgsync.maintenance")

# A leader that was killed must be followed, and its jobs rescued, within two seconds.
_LEAD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Duty:
    """One call that is made every ``every`` seconds; it answers with how much it did.

    One with ``again`` answers with how much it keeps going: while that is not 0 it is due each
    ``again`` seconds, and the log tells only when it begins and ends.
    """

    name: str
    every: float
    call: Call[int]
    again: float | None = None


DUTIES = (
    Duty("rescue jobs of dead workers", 0.5, rescue_jobs(SILENCE)),
    Duty("promote due jobs", 0.5, promote_due_jobs()),
    Duty("resume waiting jobs", 0.5, Call("SELECT pgsync.resume_waiting_jobs()", {}, scalar)),
    Duty(
        "look again at dependencies", 0.5, Call("SELECT pgsync.settle_dependencies()", {}, scalar)
    ),
    Duty(
        "check all dependencies", 60.0, Call("SELECT pgsync.settle_dependencies(true)", {}, scalar)
    ),
    Duty("forget old batches", 3600.0, Call("SELECT pgsync.prune_batches()", {}, scalar)),
    Duty("wake workers of limited queues", 0.5, Call("SELECT pgsync.wake_queues()", {}, scalar)),
    Duty("keep floors", 0.5, Call("SELECT pgsync.advance_floors()", {}, scalar), again=0.1),
    Duty("remove wrong floors", 60.0, Call("SELECT pgsync.check_floors()", {}, scalar)),
    Duty("end holders past their deadline", 1.0, Call("SELECT pgsync.reap_locks()", {}, scalar)),
    Duty("remove ended windows", 10.0, Call("SELECT pgsync.prune_rate_limits()", {}, scalar)),
    Duty(
        "remove ended windows of the library limits",
        10.0,
        Call("SELECT pgsync.prune_limits_storage()", {}, scalar),
        again=0.1,
    ),
    Duty("forget idle keys", 60.0, Call("SELECT pgsync.prune_keys()", {}, scalar)),
    Duty("forget untold discards", 3600.0, Call("SELECT pgsync.prune_discards()", {}, scalar)),
    Duty("forget unique keys", 3600.0, Call("SELECT pgsync.prune_unique_keys()", {}, scalar)),
    Duty("prepare history", 600.0, Call("SELECT pgsync.prepare_history()", {}, scalar)),
    Duty("drop old history", 60.0, Call("SELECT pgsync.prune_history()", {}, scalar)),
    Duty("delete old jobs", 3600.0, Call("SELECT pgsync.prune_queue_history()", {}, scalar)),
    Duty("forget old runs", 60.0, Call("SELECT pgsync.prune_operations()", {}, scalar)),
    Duty("forget old fences", 3600.0, Call("SELECT pgsync.prune_fences()", {}, scalar)),
    Duty("forget old audit entries", 3600.0, Call("SELECT pgsync.prune_audit()", {}, scalar)),
    Duty("forget old fires", 3600.0, Call("SELECT pgsync.prune_schedule_fires()", {}, scalar)),
)


class Maintenance:
    """Does the duties while its session leads; any number of processes may stand by."""

    def __init__(self, dsn: str, duties: tuple[Duty, ...] = DUTIES) -> None:
        self._dsn = dsn
        self._duties = duties

    async def run(self) -> None:
        """Lead or stand by, until cancelled. A broken connection ends it with an error."""
        async with await open_session_async(self._dsn, "pgsync maintenance") as connection:
            lead = Call("SELECT pgsync.lead_maintenance()", {}, scalar)
            while not await execute_async(connection, lead):  # noqa: ASYNC110 - the server decides
                await asyncio.sleep(_LEAD_SECONDS)
            due_at = [0.0] * len(self._duties)
            going: set[str] = set()
            while True:
                turn = due_at.index(min(due_at))
                duty = self._duties[turn]
                await asyncio.sleep(max(0.0, due_at[turn] - time.monotonic()))
                done = await execute_async(connection, duty.call)
                every = duty.every
                if duty.again is not None:
                    if bool(done) != (duty.name in going):
                        logger.info("%s: %s", duty.name, done)
                        going ^= {duty.name}
                    every = duty.again if done else duty.every
                elif done:
                    logger.info("%s: %s", duty.name, done)
                due_at[turn] = time.monotonic() + every
