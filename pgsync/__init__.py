"""Coordination on PostgreSQL: locks, queues, rate limits, schedules and sync operations."""

from pgsync.version import __version__

__all__ = ["__version__"]
