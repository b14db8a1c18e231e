"""A workspace, and the contacts' operations, on the test's own database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator
from pgsync.modules.contacts import Contact, Contacts
from pgsync.modules.database import engine_for
from pgsync.modules.models import Workspace


@pytest.fixture
def sessions(dsn: str) -> Iterator[sessionmaker[Session]]:
    engine = engine_for(dsn)
    yield sessionmaker(engine, expire_on_commit=False)
    engine.dispose()


@pytest.fixture
def workspace(sessions: sessionmaker[Session]) -> int:
    with sessions.begin() as session:
        session.add(home := Workspace(name="Home", default_region="US"))
    return home.id


@pytest.fixture
def contacts(sync: Coordinator, sessions: sessionmaker[Session]) -> Contacts:
    return Contacts(sync, sessions, batch=1_000)


class Address:
    """What the tests read and write of the contacts' tables."""

    def __init__(self, sessions: sessionmaker[Session], workspace: int, folder: Path) -> None:
        self.sessions = sessions
        self.workspace = workspace
        self.folder = folder

    def all(self, workspace: int | None = None) -> dict[str, Contact]:
        """The contacts of a workspace by phone."""
        here = Contact.workspace_id == (workspace or self.workspace)
        with self.sessions() as session:
            return {found.phone: found for found in session.scalars(select(Contact).where(here))}

    def add(self, phone: str, **values: object) -> None:
        """A contact as it may be there before."""
        with self.sessions.begin() as session:
            session.add(Contact(workspace_id=self.workspace, phone=phone, **values))

    def file(self, *lines: str) -> str:
        """The path of a CSV file with these lines."""
        path = self.folder / "people.csv"
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)


@pytest.fixture
def book(sessions: sessionmaker[Session], workspace: int, tmp_path: Path) -> Address:
    return Address(sessions, workspace, tmp_path)
