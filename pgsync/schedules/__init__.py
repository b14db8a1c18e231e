"""Recurring work, enqueued exactly once for each due time."""
