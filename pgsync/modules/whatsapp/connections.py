"""Calling the Graph API for a connection, within the budget that all modules and workers share."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.errors import PgsyncError
from pgsync.limits import Decision, Limit, Limiter
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.answers import whose_limit
from pgsync.modules.whatsapp.graph import GraphClient

__all__ = ["Budget", "ConnectionDisabled", "Connections", "UnknownConnection"]

logger = logging.getLogger("pgsync.modules.whatsapp")

_MINUTE = 60
_PATIENCE = 120.0


# One statement, however many they are; none of them would learn it sooner by a call of its own.
_PAUSE = text(
    """
    SELECT pgsync.rate_limit_penalize(:prefix || n.id, :pause, 'the Graph API asked to wait')
    FROM pgsync_modules.connection AS n
    WHERE n.disabled_at IS NULL AND n.waba_id = coalesce(CAST(:waba_id AS text), n.waba_id)
    ORDER BY n.id
    """
)


class UnknownConnection(PgsyncError):
    """There is no connection with that number."""


class ConnectionDisabled(PgsyncError):
    """The connection makes no calls, since its token or its rights were refused."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The calls that a connection may make, which all modules and workers share."""

    limiter: Limiter
    key: str

    def left(self) -> Decision:
        """How many calls are left now, and when there are more; takes none."""
        return self.limiter.peek(self.key)

    def take(self, patience: float) -> None:
        """Take a call, waiting for it at most so many seconds.

        Raises:
            RateLimited: as soon as it is known that the wait is too long.
        """
        self.limiter.acquire(self.key, timeout=patience)

    def pause(self, seconds: float) -> None:
        """Let nobody call over this connection for so long."""
        self.limiter.penalize(self.key, seconds, reason="the Graph API asked to wait")


@dataclass(frozen=True, slots=True)
class _Client:
    token: str
    calls_per_minute: int
    graph: GraphClient


class Connections:
    """Hands out clients; each of their calls takes a permit of its connection's shared budget."""

    def __init__(
        self,
        sync: Coordinator,
        sessions: sessionmaker[Session],
        *,
        graph_url: str | None = None,
        graph_version: str | None = None,
    ) -> None:
        self._sync = sync
        self._sessions = sessions
        self._graph_url = graph_url
        self._graph_version = graph_version
        self._clients: dict[tuple[int, float], _Client] = {}
        self._mutex = threading.Lock()

    def find(self, connection_id: int) -> Connection:
        """The connection.

        Raises:
            UnknownConnection: if there is none.
            ConnectionDisabled: if it must make no calls.
        """
        with self._sessions() as session:
            connection = session.get(Connection, connection_id)
        if connection is None:
            raise UnknownConnection(f"there is no connection {connection_id}")
        if connection.disabled_at is not None:
            raise ConnectionDisabled(
                f"connection {connection_id} is disabled since {connection.disabled_at:%Y-%m-%d}: "
                f"{connection.disabled_reason}; renew its token and enable it"
            )
        return connection

    def graph(self, connection: Connection, patience: float = _PATIENCE) -> GraphClient:
        """The client of a connection; kept, so that its HTTP connections are used again.

        ``patience`` is how many seconds its calls wait for a permit.
        """
        key = (connection.token, connection.calls_per_minute)
        with self._mutex:
            known = self._clients.get((connection.id, patience))
            if known is None or (known.token, known.calls_per_minute) != key:
                known = _Client(*key, self._new_client(connection, patience))
                self._clients[connection.id, patience] = known
            return known.graph

    def budget(self, connection: Connection) -> Budget:
        """The connection's calls a minute."""
        # The name and key are the same in every process, and so the budget is one.
        limiter = self._sync.limiter("graph", Limit(connection.calls_per_minute, per=_MINUTE))
        return Budget(limiter, f"connection:{connection.id}")

    def disable(self, connection_id: int, reason: str) -> None:
        """Let the connection make no more calls, and alert."""
        logger.error("connection %s is disabled: %s", connection_id, reason)
        with self._sessions.begin() as session:
            session.execute(
                update(Connection)
                .where(Connection.id == connection_id, Connection.disabled_at.is_(None))
                .values(disabled_at=func.clock_timestamp(), disabled_reason=reason)
            )

    def _new_client(self, connection: Connection, patience: float) -> GraphClient:
        budget = self.budget(connection)
        return GraphClient(
            token=connection.token,
            base_url=self._graph_url,
            version=self._graph_version,
            before_call=partial(budget.take, patience),
            on_throttle=partial(self._pause, connection),
        )

    def _pause(self, connection: Connection, seconds: float, code: int | None) -> None:
        """Let nobody call for so long who shares the limit that this connection met."""
        budget, whose = self.budget(connection), whose_limit(code)
        if whose == "number":
            budget.pause(seconds)
            return
        sharing = {
            "prefix": budget.limiter.key("connection:"),
            "pause": timedelta(seconds=seconds),
            "waba_id": None if whose == "app" else connection.waba_id,
        }
        with self._sessions.begin() as session:
            session.execute(_PAUSE, sharing)
