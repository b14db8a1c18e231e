"""What happens in the demo, in order."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import select

from pgsync.cli.demo.figures import read_figures, take_mark
from pgsync.cli.demo.graph import GraphProcess
from pgsync.cli.demo.screen import Screen
from pgsync.coordinator import Coordinator
from pgsync.errors import OperationBlocked, PgsyncError
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.contacts.sample import write_sample
from pgsync.modules.models import Connection, Workspace
from pgsync.modules.platform import QUEUES, Platform
from pgsync.queues import ENDED

__all__ = ["Scenario"]

_TOKEN = "demo-token"  # noqa: S105 - the stand-in's own
_TEMPLATE, _LANGUAGE = "demo_hello", "en_US"
_LATENCY = 0.1
_CALLS_PER_MINUTE = 60_000
_PATIENCE = 120.0
_PAUSE = 5.0


class Scenario:
    """The platform on a coordinator, a stand-in for the Graph API, and a worker."""

    def __init__(self, sync: Coordinator, screen: Screen, *, templates: int, rows: int) -> None:
        self._sync = sync
        self._screen = screen
        self._rows = rows
        self._graph = GraphProcess(token=_TOKEN, templates=templates - 1)
        self._stack = ExitStack()
        self._campaign = 0

    def __enter__(self) -> Scenario:
        try:
            self._stack.enter_context(self._graph)
            template = {"name": _TEMPLATE, "language": _LANGUAGE, "body": "Hello {{1}}!"}
            self._graph.add("templates", template)
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._platform = Platform(self._sync, graph_url=self._graph.url, caps=UNCAPPED)
            self._stack.callback(self._platform.close)
            self._database = self._stack.enter_context(
                psycopg.connect(self._sync.direct_dsn, autocommit=True)
            )
            self._mark = take_mark(self._database)
            self._sync.start(queues=QUEUES, concurrency=8)
            self._stack.callback(self._sync.stop)
            self._connection = self._find_connection()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def run_once(self) -> None:
        """Each operation, started twice at once."""
        with self._screen.watching(self._sync.direct_dsn, self._mark.operation):
            self._sync_templates_twice()
            self._import_contacts_twice()
            self._send_campaign_twice()

    def figures(self) -> dict[str, Any]:
        """The figures, from the database and the stand-in's log."""
        duplicates = len(self._graph.counts()["duplicate_sends"])
        return read_figures(self._database, self._mark, self._campaign, duplicates)

    def keep_running(self) -> None:
        """Small syncs until Ctrl-C."""
        sync_templates = self._platform.whatsapp.template_sync
        while True:
            time.sleep(_PAUSE)
            sync_templates.enqueue(connection_id=self._connection.id)
            with self._screen.watching(self._sync.direct_dsn, take_mark(self._database).operation):
                time.sleep(_PAUSE)

    def _find_connection(self) -> Connection:
        with self._platform.sessions.begin() as session:
            connection = session.scalar(select(Connection).where(Connection.name == "Demo"))
            if connection is None:
                workspace = Workspace(name="Demo", default_region="DE")
                session.add(workspace)
                session.flush()
                connection = Connection(workspace_id=workspace.id, name="Demo")
                session.add(connection)
            connection.waba_id = self._graph.waba_id
            connection.phone_number_id = self._graph.phone_number_id
            connection.token = _TOKEN
            # The stand-in bears more than the real API's hundred, or this would take an hour.
            connection.calls_per_minute = _CALLS_PER_MINUTE
            session.flush()
            session.expunge(connection)
        return connection

    def _sync_templates_twice(self) -> None:
        self._screen.say("Syncing templates, twice at once...")
        operation = self._platform.whatsapp.template_sync
        arguments = {"connection_id": self._connection.id}
        # As slow as the real API, or the first would be done before the second begins.
        slow = {"kind": "slow", "times": None, "path": "message_templates", "seconds": _LATENCY}
        self._graph.add("faults", slow)
        self._twice(lambda: operation(**arguments), lambda: operation.status(**arguments))

    def _import_contacts_twice(self) -> None:
        self._screen.say(f"Importing a file of {self._rows} contacts, twice at once...")
        path = self._folder / "contacts.csv"
        write_sample(path, rows=self._rows)
        operation = self._platform.contacts.contact_import
        arguments = {"workspace_id": self._connection.workspace_id, "path": str(path)}
        self._twice(
            lambda: operation(**arguments),
            lambda: operation.status(workspace_id=self._connection.workspace_id),
        )

    def _send_campaign_twice(self) -> None:
        self._screen.say("Sending a campaign to them, from two jobs at once...")
        broadcasts = self._platform.broadcasts
        self._campaign = broadcasts.campaigns.create(
            workspace_id=self._connection.workspace_id,
            connection_id=self._connection.id,
            name="Demo",
            template_name=_TEMPLATE,
            language=_LANGUAGE,
        )
        broadcasts.campaigns.add_contacts(self._campaign)
        jobs = [
            broadcasts.start(self._campaign),
            broadcasts.campaign_sending.enqueue(campaign_id=self._campaign).id,
        ]
        self._until(lambda: broadcasts.campaigns.state_of(self._campaign) == "completed")
        # The one that was released finds nothing left to do; no need to wait for its time.
        for job in jobs:
            self._sync.retry_job(job)
            self._until(partial(self._has_ended, job))

    def _has_ended(self, job_id: int) -> bool:
        job = self._sync.job(job_id)
        return job is None or job.state in ENDED

    def _twice(self, call: Callable[[], Any], status: Callable[[], Any]) -> None:
        """Make a call in a thread and, as soon as its run is recorded, a second time here."""
        failures: list[BaseException] = []

        def first() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
                failures.append(error)

        thread = threading.Thread(target=first, name="pgsync-demo-first")
        thread.start()
        self._until(lambda: not thread.is_alive() or _runs(status()))
        try:
            call()
        except OperationBlocked as error:
            self._screen.say(f"  the second one: [yellow]{error}[/] (held by {error.holder})")
        thread.join(_PATIENCE)
        if failures:
            raise failures[0]

    def _until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > until:
                raise PgsyncError(f"the demo waited {_PATIENCE:g} s in vain; see pgsync jobs list")
            time.sleep(0.01)


def _runs(status: Any) -> bool:
    return status is not None and status.state == "running"
