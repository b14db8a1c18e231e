"""An app that worker processes of a test load."""

from pgsync import AsyncCoordinator


def sync() -> AsyncCoordinator:
    """A coordinator on the database that ``PGSYNC_DSN`` names."""
    return AsyncCoordinator()
