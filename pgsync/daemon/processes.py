"""Several workers in one process tree: each a process of its own, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pgsync.counts import Labels
from pgsync.daemon.app import load_app
from pgsync.daemon.daemon import Daemon
from pgsync.daemon.logs import LogStyle, begin_logging, current_style
from pgsync.daemon.service import Changes, run_until_signalled
from pgsync.daemon.vitals import HEARD_WITHIN, Vitals
from pgsync.daemon.worker import WorkerReport
from pgsync.errors import ConnectionFailed, WorkersFailed
from pgsync.pauses import Pauses

__all__ = ["WorkerProcesses"]

logger = logging.getLogger("pgsync.processes")

_MOST_FAILED_STARTS = 5
_LONGEST_PAUSE = 30.0
_BEYOND_GRACE = 10.0
_NO_DATABASE = 75  # EX_TEMPFAIL: tried again without an end, as a worker that runs does

_STOP, _NOW = "stop", "now"
_READY = "ready"
_VITALS_SECONDS = 2.0

# A new interpreter each: a fork would inherit connections, threads and locks of this one.
_spawn = multiprocessing.get_context("spawn")


@dataclass
class _Child:
    process: BaseProcess
    line: Connection
    ready: bool = False
    report: WorkerReport | None = None
    vitals: Vitals | None = None
    told_at: float = field(default_factory=time.monotonic)

    def tell(self, word: str | Changes) -> None:
        with suppress(OSError):  # It has ended.
            self.line.send(word)


@dataclass
class WorkerProcesses:
    """``count`` processes that each load ``app`` and run the daemon that it makes with ``options``.

    One that dies is started again, after a pause that grows. Where they die before they are ready,
    five times in a row, all are ended: the app cannot start. What a job does to its process is
    bounded by the job's attempts instead. The processes end in order when this one is killed.
    """

    app: str
    count: int
    options: dict[str, Any]
    grace: float
    drain: bool = False
    _children: dict[int, _Child] = field(default_factory=dict, init=False)
    _failed_starts: int = field(default=0, init=False)
    _failure: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._word: str | None = None
        self._changes: Changes | None = None
        self._told = asyncio.Event()
        # What those counted that have ended. Under the lock each count is in one place.
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._counting = threading.Lock()

    def stop(self) -> None:
        """Have all claim no more and end in order. Call it on the loop."""
        self._tell(_STOP)

    def stop_at_once(self) -> None:
        """Have all put back what runs, and end."""
        self._tell(_NOW)

    def change(self, changes: Changes) -> None:
        """Have all go on with other settings."""
        self._changes = changes
        if changes.log_level is not None:
            logging.getLogger().setLevel(changes.log_level)
        for child in self._children.values():
            child.tell(changes)

    def vitals(self) -> Vitals:
        """How they are, as each tells every few seconds."""
        with self._counting:
            children = [_vitals_of(child) for child in self._children.values()]
            counts = self._counts.copy()
        if self._word is not None:
            children.append(Vitals("it is told to stop"))
        elif missing := self.count - len(children):
            children.append(Vitals(f"{missing} of {self.count} processes do not run"))
        return Vitals.of_all(children, counts)

    def _tell(self, word: str) -> None:
        self._word = word
        self._told.set()
        for child in self._children.values():
            child.tell(word)

    async def run(self) -> WorkerReport:
        """Keep them running until stopped (or drained); what they did, together.

        Raises:
            WorkersFailed: if they kept ending before they were ready, or one had to be killed.
        """
        total = WorkerReport()
        try:
            async with asyncio.TaskGroup() as group:
                last = group.create_task(self._kill_the_late())
                places = [group.create_task(self._keep(each, total)) for each in range(self.count)]
                await asyncio.wait(places)
                last.cancel()
        finally:
            # Where this was cancelled, or one could not be made, the others must not be left over.
            for child in self._children.values():
                child.line.close()
        if self._failure is not None:
            raise WorkersFailed(self._failure)
        return total

    async def _kill_the_late(self) -> None:
        await self._told.wait()
        await asyncio.sleep(self.grace + _BEYOND_GRACE)
        for place, child in self._children.items():
            self._fail(f"worker process {place + 1} did not end within its grace and was killed")
            child.process.kill()

    async def _keep(self, place: int, total: WorkerReport) -> None:
        pauses = Pauses(0.5, _LONGEST_PAUSE)
        while self._word is None:
            began = asyncio.get_running_loop().time()
            child = await self._run_child(place)
            if child.report is not None:
                total.add(child.report)
                if self.drain or self._word is not None:
                    return
                continue  # Somebody told just this one to end.
            self._judge(place, child)
            if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                pauses.reset()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), next(pauses))

    async def _run_child(self, place: int) -> _Child:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(
            target=_work,
            args=(self.app, self.options, self.grace, theirs, current_style()),
            name=f"pgsync-worker-{place + 1}",
        )
        process.start()
        theirs.close()
        child = _Child(process, ours)
        with self._counting:
            self._children[place] = child
        if self._changes is not None:
            child.tell(self._changes)
        if self._word is not None:
            child.tell(self._word)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def watch() -> None:
            # A loop that has ended refuses this, and then nobody waits.
            with suppress(RuntimeError):
                _listen(child, lambda word: loop.call_soon_threadsafe(self._hear, child, word))
                process.join()
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=watch, name=f"{process.name}-watch", daemon=True).start()
        await ended.wait()
        with self._counting:
            del self._children[place]
            if child.vitals is not None:
                self._counts.update(child.vitals.counts)
        ours.close()
        return child

    def _hear(self, child: _Child, word: Any) -> None:
        if word == _READY:
            child.ready = True
            self._failed_starts = 0
        elif isinstance(word, Vitals):
            child.vitals, child.told_at = word, time.monotonic()
        else:
            child.report = WorkerReport(*word)

    def _judge(self, place: int, child: _Child) -> None:
        """What is to be done about one that has not ended in order."""
        code = child.process.exitcode
        if self._word is not None:
            return  # It was not far enough to end in order.
        logger.warning("worker process %s ended with %s; starting another", place + 1, code)
        if child.ready or code == _NO_DATABASE:
            return
        self._failed_starts += 1
        if self._failed_starts >= _MOST_FAILED_STARTS:
            self._fail(
                f"worker processes ended before they were ready, {_MOST_FAILED_STARTS} times in a "
                f"row, the last with exit code {code}: what they wrote above says why"
            )
            self.stop()

    def _fail(self, failure: str) -> None:
        self._failure = self._failure or failure
        logger.error("%s", failure)


def _vitals_of(child: _Child) -> Vitals:
    silence = time.monotonic() - child.told_at
    if child.vitals is None:
        return Vitals("a process has only begun")
    if silence > HEARD_WITHIN:
        return replace(child.vitals, unready=f"a process has said nothing for {silence:.0f} s")
    return child.vitals


def _listen(child: _Child, hear: Callable[[Any], object]) -> None:
    """Pass on what a child tells, until it has ended."""
    with suppress(EOFError, OSError):
        # Its own children may keep the line open when it has died: look at it too.
        while child.process.is_alive() or child.line.poll():
            if child.line.poll(1.0):
                hear(child.line.recv())


def _work(
    app: str, options: dict[str, Any], grace: float, line: Connection, style: LogStyle | None
) -> None:
    """What a child does: load the app, say that it is ready, work, and tell what it did."""
    os.environ.pop("NOTIFY_SOCKET", None)  # systemd hears of the parent
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent reloads for all
    coordinator = load_app(app)
    if style is not None:
        begin_logging(style)
    try:
        report = asyncio.run(_main(coordinator, options, grace, line))
    except ConnectionFailed as error:
        logger.warning("a worker process cannot start: %s", error)
        sys.exit(_NO_DATABASE)
    with suppress(OSError):  # Its parent was killed.
        line.send(astuple(report))


async def _main(
    coordinator: Any, options: dict[str, Any], grace: float, line: Connection
) -> WorkerReport:
    daemon: Daemon = await asyncio.to_thread(coordinator._new_daemon, **options)
    await daemon.check()
    loop = asyncio.get_running_loop()
    acts = {_STOP: daemon.stop, _NOW: daemon.stop_at_once}

    def act(word: str | Changes) -> None:
        if isinstance(word, Changes):
            daemon.change(word)
        else:
            acts[word]()

    def obey() -> None:
        try:
            while True:
                loop.call_soon_threadsafe(act, line.recv())
        except (EOFError, OSError, RuntimeError):
            # Its parent is gone, and nobody would ever end this.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(daemon.stop)
        threading.Event().wait(grace + _BEYOND_GRACE)
        os._exit(1)

    threading.Thread(target=obey, name="pgsync-parent", daemon=True).start()
    line.send(_READY)
    telling = asyncio.create_task(_tell_vitals(daemon, line))
    try:
        return await run_until_signalled(daemon)
    finally:
        telling.cancel()


async def _tell_vitals(daemon: Daemon, line: Connection) -> None:
    with suppress(OSError):  # Its parent was killed.
        while True:
            line.send(daemon.vitals())
            await asyncio.sleep(_VITALS_SECONDS)
