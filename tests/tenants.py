"""A tenant of the modules, connected to a stand-in for the Graph API."""

from __future__ import annotations

from sqlalchemy.orm import Session, sessionmaker

from pgsync.modules.models import Connection, Workspace
from pgsync.modules.whatsapp.standin import GraphStandin

__all__ = ["new_connection"]


def new_connection(sessions: sessionmaker[Session], graph: GraphStandin) -> Connection:
    """A connection of a new workspace; the stand-in alone limits its calls."""
    with sessions.begin() as session:
        workspace = Workspace(name="Acme", default_region="DE")
        session.add(workspace)
        session.flush()
        connection = Connection(
            workspace_id=workspace.id,
            name="Acme's number",
            waba_id=graph.waba_id,
            phone_number_id=graph.phone_number_id,
            token=graph.token,
            calls_per_minute=1_000_000,
        )
        session.add(connection)
    return connection
