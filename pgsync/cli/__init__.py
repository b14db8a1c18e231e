"""The command line."""

from pgsync.cli.main import main

__all__ = ["main"]
