"""Coordination on PostgreSQL: locks, queues, rate limits, schedules and sync operations."""
