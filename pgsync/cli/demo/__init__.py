"""``pgsync demo``: the system of the seed at work, on a real PostgreSQL and real HTTP."""

from pgsync.cli.demo.command import demo

__all__ = ["demo"]
