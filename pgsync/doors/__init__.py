"""Doors from other frameworks into pgsync's queues: each is an extra, and imports its own only."""
