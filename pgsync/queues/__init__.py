"""Job queues on SKIP LOCKED tables."""

from pgsync.queues.calls import Enqueued, JobOptions, JobState
from pgsync.queues.context import (
    CancelJob,
    DiscardJob,
    JobContext,
    JobDiscarded,
    JobTimedOut,
    ProcessDied,
    ReleaseJob,
    WorkerDied,
    current_job,
)
from pgsync.queues.enqueuer import AsyncEnqueuer, Enqueuer
from pgsync.queues.front import AsyncQueues, Queues
from pgsync.queues.job import ENDED, STATES, WAITING, Job
from pgsync.queues.limits import QueueLimits
from pgsync.queues.options import JobChanges, TaskOptions
from pgsync.queues.parameters import Parameters
from pgsync.queues.retry import Backoff, backoff_from
from pgsync.queues.sealing import SealedArguments
from pgsync.queues.tasks import AsyncTask, Task, TaskDeclaration, TaskRegistry
from pgsync.queues.together import BatchState, JobBatch, NewJob
from pgsync.queues.unique import Unique

__all__ = [
    "ENDED",
    "STATES",
    "WAITING",
    "AsyncEnqueuer",
    "AsyncQueues",
    "AsyncTask",
    "Backoff",
    "BatchState",
    "CancelJob",
    "DiscardJob",
    "Enqueued",
    "Enqueuer",
    "Job",
    "JobBatch",
    "JobChanges",
    "JobContext",
    "JobDiscarded",
    "JobOptions",
    "JobState",
    "JobTimedOut",
    "NewJob",
    "Parameters",
    "ProcessDied",
    "QueueLimits",
    "Queues",
    "ReleaseJob",
    "SealedArguments",
    "Task",
    "TaskDeclaration",
    "TaskOptions",
    "TaskRegistry",
    "Unique",
    "WorkerDied",
    "backoff_from",
    "current_job",
]
