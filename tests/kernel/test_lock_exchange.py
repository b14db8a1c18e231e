"""Requests of many threads in one round trip: one that fails or is interrupted spoils no other."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from tests.advisory import advisory_locks
from tests.eventually import eventually

pytestmark = pytest.mark.core


_LED_BY_THE_MAIN_THREAD = """
import signal, sys, threading, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])
sync.lock("before", ttl=60).acquire()
outcomes = []

def work(name):
    lock = sync.lock(name, ttl=60)
    lock.acquire()
    outcomes.append(name)

def interrupt():
    # Behind the first, whose round trip takes a second, stand the main thread and then the others.
    time.sleep(0.6)
    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    # By now the main thread asks for all of them, and its own takes half a minute.
    time.sleep(1.5)
    signal.raise_signal(signal.SIGINT)
    for thread in threads:
        thread.join(20)

first = threading.Thread(target=work, args=("first",))
first.start()
time.sleep(0.3)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt).start()
try:
    sync.lock("slow", ttl=60).acquire()
except KeyboardInterrupt:
    while len(outcomes) < 4:
        time.sleep(0.01)
    print(sorted(outcomes), sorted(lock.name for lock in sync.list_locks()), flush=True)
sys.stdin.read()
"""


def test_an_interrupted_leader_leaves_the_others_to_another(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF new.name = 'first' THEN PERFORM pg_sleep(1);"
        " ELSIF new.name = 'slow' THEN PERFORM pg_sleep(30); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _LED_BY_THE_MAIN_THREAD, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    said = process.stdout.readline().decode()
    assert said == "['a', 'b', 'c', 'first'] ['a', 'b', 'before', 'c', 'first']\n"
    assert advisory_locks(database) == 5
    process.stdin.close()
    process.kill()
    process.wait()


def test_a_broken_request_spoils_no_other_of_its_batch(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow_or_bad() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.name = 'slow' THEN PERFORM pg_sleep(1); END IF;"
        " IF new.name = 'bad' THEN RAISE EXCEPTION 'a bad one'; END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow_or_bad BEFORE INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow_or_bad()"
    )
    outcomes: dict[str, str] = {}
    with Coordinator(dsn) as sync:
        before = sync.lock("before", ttl=60)
        before.acquire()

        def work(name: str) -> None:
            try:
                with sync.lock(name, ttl=60):
                    outcomes[name] = "held"
                    eventually(lambda: len(outcomes) == 4)
            except psycopg.errors.RaiseException:
                outcomes[name] = "refused"

        # While the first is under way the others queue, and go together in the next round trip.
        threads = [
            threading.Thread(target=work, args=(name,)) for name in ("slow", "a", "bad", "c")
        ]
        threads[0].start()
        eventually(
            lambda: database.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database()"
            ).fetchone()
        )
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes == {"slow": "held", "a": "held", "bad": "refused", "c": "held"}
        before.check()
        assert [lock.name for lock in sync.list_locks()] == ["before"]
        assert advisory_locks(database) == 1
