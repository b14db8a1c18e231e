"""Measurements: each figure beside PostgreSQL's own limit, in interleaved runs, as a ratio."""
