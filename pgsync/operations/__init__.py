"""Sync operations: a lock, a limit, a queue and a history, declared once."""
