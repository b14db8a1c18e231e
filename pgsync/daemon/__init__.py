"""Loops that keep the house: workers, scheduler, maintenance."""

from pgsync.daemon.daemon import Daemon, DaemonThread, run_until_signalled
from pgsync.daemon.worker import Worker, WorkerReport

__all__ = ["Daemon", "DaemonThread", "Worker", "WorkerReport", "run_until_signalled"]
