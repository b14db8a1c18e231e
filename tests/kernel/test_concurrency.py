"""At most so many at a time, in all processes together."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgsync import Coordinator, LockHeld

pytestmark = pytest.mark.core


def test_no_more_than_so_many_run_at_once(new_face: Callable[[], Any]) -> None:
    faces = [new_face(), new_face()]
    mutex = threading.Lock()
    running = most = 0

    def work(number: int) -> None:
        nonlocal running, most
        with faces[number % 2].concurrency("graph", 3, wait=60):
            with mutex:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.01)
            with mutex:
                running -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert most == 3


def test_as_a_decorator_each_argument_has_places_of_its_own(sync: Coordinator) -> None:
    @sync.concurrency("tenant:{tenant}", 1)
    def work(tenant: int, inner: Callable[[], object] = lambda: None) -> object:
        return inner()

    assert work(1, lambda: work(2)) is None
    with pytest.raises(LockHeld):
        work(1, lambda: work(1))


_HOLD = """
import sys
from pgsync import Coordinator
with Coordinator(sys.argv[1]) as sync, sync.concurrency("graph", 1):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_gives_its_place_back(sync: Coordinator, dsn: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockHeld), sync.concurrency("graph", 1):
        pytest.fail("both hold it")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with sync.concurrency("graph", 1, wait=10):
        pass
