"""A daemon as a service: its signals, its health page, and word to systemd."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from pgsync.daemon.health import HealthServer
from pgsync.daemon.systemd import sd_notify, watchdog_seconds
from pgsync.daemon.vitals import Vitals
from pgsync.daemon.worker import WorkerReport
from pgsync.errors import PgsyncError

__all__ = ["Changes", "HealthPage", "Stoppable", "run_until_signalled"]

logger = logging.getLogger("pgsync.daemon")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a daemon can change while it runs."""

    queues: Sequence[str] | Mapping[str, int]
    concurrency: int
    log_level: int | None = None


@dataclass(frozen=True, slots=True)
class HealthPage:
    """Where health and metrics are served, and of which database."""

    host: str
    port: int
    dsn: str


class Stoppable(Protocol):
    """What runs until it is told to end: a daemon, or several processes of them."""

    def stop(self) -> None:
        """End in order."""

    def stop_at_once(self) -> None:
        """End, and give what runs no time."""

    def change(self, changes: Changes) -> None:
        """Go on with other settings."""

    def vitals(self) -> Vitals:
        """How it is; asked in any thread."""
        ...

    async def run(self) -> WorkerReport:
        """Run until then, and report what was done."""
        ...


async def run_until_signalled(
    daemon: Stoppable,
    page: HealthPage | None = None,
    reload: Callable[[], Changes] | None = None,
) -> WorkerReport:
    """Run it. In the main thread, SIGTERM or SIGINT ends it in order, and a second one at once.

    ``reload`` is called at SIGHUP, and says how to go on.
    """
    told = False

    def tell() -> None:
        nonlocal told
        sd_notify("STOPPING=1")
        (daemon.stop_at_once if told else daemon.stop)()
        told = True

    def hang_up() -> None:
        assert reload is not None
        try:
            daemon.change(reload())
        except PgsyncError as error:
            logger.error("settings were not reloaded: %s", error)
        else:
            logger.info("settings reloaded")

    acts: dict[signal.Signals, Callable[[], None]] = {signal.SIGTERM: tell, signal.SIGINT: tell}
    if reload is not None:
        acts[signal.SIGHUP] = hang_up
    if threading.current_thread() is not threading.main_thread():
        acts = {}
    loop = asyncio.get_running_loop()
    heart = _Heart(daemon)
    with ExitStack() as at_the_end:
        for number, act in acts.items():
            loop.add_signal_handler(number, act)
            at_the_end.callback(loop.remove_signal_handler, number)
        if page is not None:
            at_the_end.enter_context(
                HealthServer(page.host, page.port, page.dsn, daemon.vitals, heart.silence)
            )
        beating = asyncio.create_task(heart.run())
        at_the_end.callback(beating.cancel)
        return await daemon.run()


class _Heart:
    """Beats on the event loop, so that others see when that stands still."""

    def __init__(self, daemon: Stoppable) -> None:
        self._daemon = daemon
        self._beat_at = time.monotonic()

    def silence(self) -> float:
        """For how many seconds it has not beaten."""
        return time.monotonic() - self._beat_at

    async def run(self) -> None:
        watchdog = watchdog_seconds()
        every = 1.0 if watchdog is None else min(1.0, watchdog / 3)
        ready = False
        while True:
            self._beat_at = time.monotonic()
            if not ready and self._daemon.vitals().unready is None:
                ready = True
                sd_notify("READY=1")
            if watchdog is not None:
                sd_notify("WATCHDOG=1")
            await asyncio.sleep(every)
