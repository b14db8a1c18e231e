"""Loops that keep the house: workers, scheduler, maintenance."""

from pgsync.daemon.app import find_app, load_app
from pgsync.daemon.daemon import Daemon, DaemonThread, run_until_signalled
from pgsync.daemon.processes import LOG_FORMAT, WorkerProcesses
from pgsync.daemon.worker import Worker, WorkerReport

__all__ = [
    "LOG_FORMAT",
    "Daemon",
    "DaemonThread",
    "Worker",
    "WorkerProcesses",
    "WorkerReport",
    "find_app",
    "load_app",
    "run_until_signalled",
]
