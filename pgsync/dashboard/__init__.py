"""The page that operators keep open."""

from pgsync.dashboard.app import create_app

__all__ = ["create_app"]
