"""Rotation of keys: the encrypted arguments of waiting jobs, encrypted anew with the first key."""

from __future__ import annotations

from pgsync.database.calls import Steps
from pgsync.database.json import to_json
from pgsync.queues.calls import replace_args, sealed_jobs
from pgsync.queues.sealing import reseal

__all__ = ["resealing"]

_BATCH = 500


def resealing(batch: int = _BATCH) -> Steps[int]:
    """Reseal all jobs that wait, some at a time; returns how many.

    A job that is claimed meanwhile is left as it is, under a key that its worker has.

    Raises:
        SealedArguments: if a job cannot be opened with any key.
    """
    after = done = 0
    while jobs := (yield from sealed_jobs(after, batch)):
        anew = [(job_id, to_json(args, "arguments"), reseal(args)) for job_id, args in jobs]
        done += yield from replace_args(anew)
        after = jobs[-1][0]
    return done
