"""Coordination on PostgreSQL: locks, queues, rate limits, schedules and sync operations."""

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.errors import (
    ConnectionFailed,
    InvalidArgument,
    JobLost,
    LockCapacityError,
    LockHeld,
    LockLost,
    OperationBlocked,
    OutcomeUnknown,
    PgsyncError,
    PoolerDetected,
    RateLimited,
    SchemaMissing,
    SchemaTooNew,
    ServerUnsupported,
    StaleToken,
    UnknownTask,
    WorkersFailed,
)
from pgsync.limits import Decision, Limit
from pgsync.locks import lock_key
from pgsync.operations import Release
from pgsync.queues import (
    Backoff,
    CancelJob,
    DiscardJob,
    JobTimedOut,
    ProcessDied,
    ReleaseJob,
    SealedArguments,
    Unique,
    current_job,
)
from pgsync.version import __version__

__all__ = [
    "AsyncCoordinator",
    "Backoff",
    "CancelJob",
    "ConnectionFailed",
    "Coordinator",
    "Decision",
    "DiscardJob",
    "InvalidArgument",
    "JobLost",
    "JobTimedOut",
    "Limit",
    "LockCapacityError",
    "LockHeld",
    "LockLost",
    "OperationBlocked",
    "OutcomeUnknown",
    "PgsyncError",
    "PoolerDetected",
    "ProcessDied",
    "RateLimited",
    "Release",
    "ReleaseJob",
    "SchemaMissing",
    "SchemaTooNew",
    "SealedArguments",
    "ServerUnsupported",
    "StaleToken",
    "Unique",
    "UnknownTask",
    "WorkersFailed",
    "__version__",
    "current_job",
    "lock_key",
]
