"""Job queues on SKIP LOCKED tables."""

from pgsync.queues.calls import Enqueued, Job, JobOptions, JobState
from pgsync.queues.context import (
    CancelJob,
    DiscardJob,
    JobContext,
    JobTimedOut,
    ReleaseJob,
    current_job,
)
from pgsync.queues.retry import Backoff, backoff_from
from pgsync.queues.tasks import (
    AsyncTask,
    JobChanges,
    Task,
    TaskDeclaration,
    TaskOptions,
    TaskRegistry,
)

__all__ = [
    "AsyncTask",
    "Backoff",
    "CancelJob",
    "DiscardJob",
    "Enqueued",
    "Job",
    "JobChanges",
    "JobContext",
    "JobOptions",
    "JobState",
    "JobTimedOut",
    "ReleaseJob",
    "Task",
    "TaskDeclaration",
    "TaskOptions",
    "TaskRegistry",
    "backoff_from",
    "current_job",
]
