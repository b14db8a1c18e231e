"""Requests of many threads in one round trip: one that fails or is interrupted spoils no other."""

from __future__ import annotations

import signal
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
    said = process.stdout.readline().decode()
    assert said == "['a', 'b', 'c', 'first'] ['a', 'b', 'before', 'c', 'first']\n"
    assert advisory_locks(database) == 5
    process.kill()
    process.communicate()


_INTERRUPTED_ALONE = """
import signal, sys
from pgsync import Coordinator
signal.signal(signal.SIGINT, signal.default_int_handler)  # A job of a shell may ignore it.
with Coordinator(sys.argv[1]) as sync:
    with sync.lock("before", ttl=60) as before:
        try:
            sync.lock("slow", ttl=60).acquire()
        except KeyboardInterrupt:
            before.check()
            with sync.lock("after", ttl=60):
                print(sorted(lock.name for lock in sync.list_locks()), flush=True)
                sys.stdin.read()
"""


def test_an_interrupted_try_costs_the_session_no_other_lock(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF new.name = 'slow' THEN PERFORM pg_sleep(60); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED_ALONE, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        eventually(
            lambda: database.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database()"
            ).fetchone()
        )
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline().decode() == "['after', 'before']\n"
        assert advisory_locks(database) == 2
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(("times", "outcome"), [(1_000, "refused"), (1, "held")])
def test_a_broken_request_spoils_no_other_of_its_batch(
    dsn: str, database: Any, times: int, outcome: str
) -> None:
    """Refused once it is asked for again; what the first statement took is given back before."""
    database.execute("CREATE SEQUENCE refusal")
    database.execute("CREATE TABLE refusals AS SELECT %s::integer AS most", [times])
    database.execute(
        "CREATE FUNCTION slow_or_bad() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.name = 'slow' THEN PERFORM pg_sleep(1); END IF;"
        " IF new.name = 'bad' AND nextval('refusal') <= (SELECT most FROM refusals)"
        " THEN RAISE EXCEPTION 'a bad one'; END IF; RETURN new; END$$"
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
        assert outcomes == {"slow": "held", "a": "held", "bad": outcome, "c": "held"}
        before.check()
        assert [lock.name for lock in sync.list_locks()] == ["before"]
        assert advisory_locks(database) == 1


_EXCHANGE = """
    SELECT x.place, x.acquired, x.token FROM pgsync.exchange_locks(%s::bigint[], %s::text[],
        array_fill(interval '1 minute', ARRAY[7]), array_fill('me'::text, ARRAY[7]), %s::text[],
        %s::integer[], array_fill(NULL::interval, ARRAY[7]), array_fill(false, ARRAY[7])) AS x
"""


def test_a_batch_answers_each_request_as_if_it_came_alone(dsn: str, database: Any) -> None:
    names = ["free", "twice", "twice", "theirs", "own", "shared", "slot"]
    modes = [*["exclusive"] * 5, "shared", "semaphore"]
    slots = [*[None] * 6, 2]
    answers = {1: True, 2: True, 3: False, 4: False, 5: False, 6: True, 7: True}
    with psycopg.connect(dsn, autocommit=True) as other, psycopg.connect(dsn) as guard:
        take = "SELECT token FROM pgsync.try_lock(%s, '1 minute', 'somebody')"
        other.execute(take, ["theirs"])
        own = database.execute(take, ["own"]).fetchone()[0]
        tokens: list[int] = []
        # At first the session has not asked yet how many locks it may hold; then it has.
        for round_ in range(3):
            guarded = database.execute(take, ["guarded"]).fetchone()[0]
            guard.execute("SELECT pgsync.assert_lock('guarded', %s)", [guarded])
            released = [*tokens, guarded, 42]
            rows = database.execute(_EXCHANGE, [released, names, modes, slots]).fetchall()
            assert {place: acquired for place, acquired, _ in rows} == answers | {
                -place: token != 42 for place, token in enumerate(released, 1)
            }
            tokens = [token for place, acquired, token in rows if place > 0 and acquired]
            assert len(tokens) == len(set(tokens)) == 4, round_
            # Each is held once, also theirs and its own; and the guard has one.
            assert advisory_locks(database) == len(tokens) + 3
            guard.rollback()
        rows = database.execute(_EXCHANGE, [[*tokens, own], [], modes, slots]).fetchall()
        assert [acquired for _, acquired, _ in rows] == [True] * 5
        assert advisory_locks(database) == 1
