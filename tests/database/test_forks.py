"""A pool in a forked child: the child has connections of its own and never touches its parent's."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually

pytestmark = pytest.mark.core

_BLOCKING = """
import json, multiprocessing, os, sys, threading
from pgsync import Coordinator, Limit

sync = Coordinator()
limiter = sync.limiter("mail", Limit(1000, per=60))

def backend():
    assert limiter.hit("one").allowed
    with sync.database.connection() as connection:
        return connection.info.backend_pid
"""

_AFTER_USE = (
    _BLOCKING
    + """
def child():
    pids = [backend(), backend()]
    sync.database.close()
    answers.put(pids)

before = backend()
context = multiprocessing.get_context("fork")
answers = context.SimpleQueue()
children = [context.Process(target=child) for _ in range(2)]
for process in children:
    process.start()
of_children = [answers.get() for _ in children]
for process in children:
    process.join()
print(json.dumps([[before, backend()], *of_children, [p.exitcode for p in children]]))
"""
)

_INSIDE_USE = (
    _BLOCKING
    + """
reading, writing = os.pipe()
with sync.database.connection() as connection:
    held = connection.info.backend_pid
    connection.execute("BEGIN")
    transaction = connection.execute("SELECT pg_current_xact_id()").fetchone()
    if pid := os.fork():
        os.close(writing)
        with os.fdopen(reading) as told:
            other = int(told.read())
        _, status = os.waitpid(pid, 0)
        assert connection.execute("SELECT pg_current_xact_id()").fetchone() == transaction
        connection.execute("COMMIT")
# The child does not own what it left, and ends as a program does, finalisers and all.
if not pid:
    with os.fdopen(writing, "w") as out:
        out.write(str(backend()))
    del connection, sync, limiter
    sys.exit()
print(json.dumps([[held, backend()], [other, other], [status]]))
"""
)

_WHILE_OPENING = (
    _BLOCKING
    + """
# Another thread opens the pool at the moment of the fork, and holds its lock.
inside, go_on = threading.Event(), threading.Event()
check = sync.database._prepare

def slowly():
    inside.set()
    go_on.wait()
    check()

sync.database._prepare = slowly
opening = threading.Thread(target=backend)
opening.start()
inside.wait()
if (pid := os.fork()) == 0:
    sync.database._prepare = check
    os._exit(0 if backend() else 1)
_, status = os.waitpid(pid, 0)
go_on.set()
opening.join()
print(json.dumps([[1, 1], [2, 2], [status]]))
"""
)

_ASYNCIO = """
import asyncio, json, os
from pgsync import AsyncCoordinator, Limit

sync = AsyncCoordinator()
limiter = sync.limiter("mail", Limit(1000, per=60))

async def backend():
    assert (await limiter.hit("one")).allowed
    async with sync.database.connection() as connection:
        return connection.info.backend_pid

async def of_child():
    pids = [await backend(), await backend()]
    await sync.database.close()
    return pids

async def main():
    before = await backend()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        asyncio._set_running_loop(None)
        os.write(writing, json.dumps(asyncio.run(of_child())).encode())
        os._exit(0)
    told = json.loads(await asyncio.to_thread(os.read, reading, 1000))
    _, status = os.waitpid(pid, 0)
    print(json.dumps([[before, await backend()], told, [status]]))
    await sync.close()

asyncio.run(main())
"""

_PARENT_DIES = (
    _BLOCKING
    + """
with sync.database.connection() as connection:
    connection.execute("SELECT pg_advisory_lock(7)")
    if os.fork():
        os.kill(os.getpid(), 9)
    sys.stdin.read()
    os._exit(0)
"""
)


@pytest.mark.parametrize("program", [_AFTER_USE, _INSIDE_USE, _WHILE_OPENING, _ASYNCIO])
def test_parent_and_child_have_sessions_of_their_own(program: str, dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        env={**os.environ, "PGSYNC_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    *sessions, endings = json.loads(done.stdout.strip().splitlines()[-1])
    assert not any(endings), done.stderr
    # Each process kept the session it had, and no two have one in common.
    assert all(first == last for first, last in sessions)
    assert len({first for first, _ in sessions}) == len(sessions)
    assert done.stderr == ""


def test_a_child_does_not_keep_its_dead_parents_session(
    dsn: str, database: psycopg.Connection[Any]
) -> None:
    take = "SELECT pg_try_advisory_lock(7)"
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT_DIES],
        env={**os.environ, "PGSYNC_DSN": dsn},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.wait(60) == -9
        eventually(lambda: database.execute(take).fetchone() == (True,))
        assert parent.stdout is not None
        # The child has its end of the pipe still.
        assert select.select([parent.stdout], [], [], 0)[0] == []
