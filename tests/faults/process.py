"""How a process of the fault harness is told what to do, and how it begins and ends."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import psycopg

from pgsync import ConnectionFailed, Coordinator, PgsyncError

__all__ = ["Orders", "begin", "work"]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a process is told; the crew that starts it fills in name, history and gate."""

    dsn: str
    seed: str
    name: str = ""
    history: str = ""
    gate: str | None = None

    def text(self) -> str:
        """The orders as one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def given(cls) -> Self:
        """The orders of this process."""
        return cls(**json.loads(sys.argv[1]))


def begin() -> threading.Event:
    """Begin to be a process of the harness; set when it is told to stop, by SIGTERM."""
    faulthandler.enable()  # so that SIGABRT shows where each thread hangs
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    return stop


def work(sync: Coordinator, stop: threading.Event, **options: Any) -> None:
    """Be a worker until told to stop.

    It begins when the database can be used, as its service would start it again until then; from
    then on it must bear whatever comes.
    """
    while not stop.wait(0.2):
        try:
            with sync.database.connection():
                break
        except (PgsyncError, psycopg.Error):
            continue
    while not stop.is_set():
        try:
            sync.run_worker(**options)
            stop.set()  # told to end while it ran
        except ConnectionFailed:
            stop.wait(0.2)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)  # the harness was killed: nobody would ever end this
