"""A campaign on the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator
from pgsync.modules.broadcasts import UNCAPPED, Broadcasts
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.broadcasts.offers import NewOffer


@pytest.fixture
def broadcasts(
    sync: Coordinator, sessions: sessionmaker[Session], whatsapp: WhatsApp
) -> Broadcasts:
    """The broadcasts module on the test's database and stand-in."""
    return Broadcasts(sync, sessions, whatsapp, caps=UNCAPPED)


@pytest.fixture
def new_campaign(
    broadcasts: Broadcasts, connection: Connection, standin: GraphStandin, whatsapp: WhatsApp
) -> Callable[[int], int]:
    """Makes drafts with so many recipients, of a template with one parameter."""
    standin.templates.add(name="hello", language="de", body="Hello {{1}}")
    whatsapp.template_sync(connection_id=connection.id)

    def make(recipients: int) -> int:
        campaign = broadcasts.campaigns.create(
            workspace_id=connection.workspace_id,
            connection_id=connection.id,
            name="Hello",
            template_name="hello",
            language="de",
        )
        phones = [f"+4915112{number:06d}" for number in range(recipients)]
        assert broadcasts.campaigns.add_phones(campaign, phones) == recipients
        return campaign

    return make


@pytest.fixture
def new_offer(
    broadcasts: Broadcasts, connection: Connection, standin: GraphStandin, whatsapp: WhatsApp
) -> NewOffer:
    """Makes drafts of a template with these components."""

    def make(*components: Mapping[str, Any], named: bool = False, **settings: Any) -> int:
        standin.templates.add(
            name="offer",
            language="de",
            components=list(components),
            parameter_format="NAMED" if named else "POSITIONAL",
        )
        whatsapp.template_sync(connection_id=connection.id)
        return broadcasts.campaigns.create(
            workspace_id=connection.workspace_id,
            connection_id=connection.id,
            name="Offer",
            template_name="offer",
            language="de",
            **settings,
        )

    return make
