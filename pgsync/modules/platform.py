"""The platform of the seed: its three modules on one coordinator.

``pgsync daemon --app pgsync.modules.platform:coordinator --queue default --queue sync
--queue campaigns --queue webhooks`` performs its jobs and fires its schedules.
"""

from __future__ import annotations

from sqlalchemy.orm import sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.modules.broadcasts import Broadcasts, Caps
from pgsync.modules.contacts import Contacts
from pgsync.modules.database import engine_for
from pgsync.modules.whatsapp import WhatsApp

__all__ = ["QUEUES", "Platform", "coordinator"]

QUEUES = ("webhooks", "sync", "campaigns", "default")
"""The platform's queues, in the order in which its workers look at them."""


class Platform:
    """WhatsApp, contacts and broadcasts, which share a coordinator and its database.

    ``graph_url`` and ``graph_version`` default to ``PGSYNC_GRAPH_URL`` and
    ``PGSYNC_GRAPH_VERSION``, and those to Meta's own. ``caps`` are how fast campaigns send.
    """

    def __init__(
        self,
        sync: Coordinator,
        *,
        graph_url: str | None = None,
        graph_version: str | None = None,
        caps: Caps | None = None,
    ) -> None:
        self.sync = sync
        self._engine = engine_for(sync.dsn, pool_size=16)
        self.sessions = sessionmaker(self._engine, expire_on_commit=False)
        self.whatsapp = WhatsApp(
            sync, self.sessions, graph_url=graph_url, graph_version=graph_version
        )
        self.contacts = Contacts(sync, self.sessions)
        self.broadcasts = Broadcasts(sync, self.sessions, self.whatsapp, caps=caps)

    def close(self) -> None:
        """Close its connections; those of the coordinator are the coordinator's."""
        self._engine.dispose()


def coordinator() -> Coordinator:
    """A coordinator that has declared the platform's operations and tasks, for workers."""
    return Platform(Coordinator()).sync
