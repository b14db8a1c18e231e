"""Loops that keep the house: workers, scheduler, maintenance."""

from pgsync.daemon.app import find_app, load_app
from pgsync.daemon.daemon import KINDS, Daemon, DaemonThread
from pgsync.daemon.logs import begin_logging
from pgsync.daemon.processes import WorkerProcesses
from pgsync.daemon.service import Changes, HealthPage, run_until_signalled
from pgsync.daemon.worker import Worker, WorkerReport

__all__ = [
    "KINDS",
    "Changes",
    "Daemon",
    "DaemonThread",
    "HealthPage",
    "Worker",
    "WorkerProcesses",
    "WorkerReport",
    "begin_logging",
    "find_app",
    "load_app",
    "run_until_signalled",
]
