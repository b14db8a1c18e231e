"""One process of the fault harness that imports one file into many workspaces."""

from __future__ import annotations

import random
from dataclasses import dataclass

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from pgsync import Coordinator, OperationBlocked, PgsyncError
from pgsync.modules.contacts import Contacts
from pgsync.modules.database import sessions_for
from tests.faults.history import History
from tests.faults.process import Orders, begin

__all__ = ["ImportOrders", "declare"]

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class ImportOrders(Orders):
    """What a process is told: the file, and into which workspaces it goes, in any order."""

    path: str
    region: str
    workspaces: list[int]


def declare(sync: Coordinator) -> Contacts:
    """The operations, whose imports commit often."""
    return Contacts(sync, sessions_for(sync.dsn, pool_size=4), batch=_BATCH)


def main(orders: ImportOrders) -> None:
    """Import until each workspace has the file, or until SIGTERM."""
    stop = begin()
    history = History(orders.history)
    rng = random.Random(orders.seed)
    left = list(orders.workspaces)
    rng.shuffle(left)
    with Coordinator(orders.dsn) as sync:
        contacts = declare(sync)
        while not stop.wait(0.05):
            if not left:
                stop.wait()
                break
            workspace = left[0]
            arguments = {"workspace_id": workspace, "path": orders.path, "region": orders.region}
            try:
                done = contacts.contact_import(**arguments)
            except OperationBlocked:
                history.add("blocked", workspace=workspace)
                left.append(left.pop(0))
            except (PgsyncError, SQLAlchemyError, psycopg.Error) as error:
                history.add("failed", workspace=workspace, error=type(error).__name__)
                stop.wait(0.2)
            else:
                del done["errors"]
                history.add("imported", workspace=workspace, **done)
                left.pop(0)


if __name__ == "__main__":
    main(ImportOrders.given())
