"""Doors from other frameworks and libraries: each is an extra, and imports its own only."""
