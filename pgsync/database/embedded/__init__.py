"""A private PostgreSQL server that several processes share, and that the last one out ends."""

from pgsync.database.embedded.server import EmbeddedServer
from pgsync.database.embedded.status import ServerStatus

__all__ = ["EmbeddedServer", "ServerStatus"]
