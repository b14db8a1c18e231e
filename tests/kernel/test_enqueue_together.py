"""What many threads or tasks enqueue at once: few commits, and each its own answer."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from pgsync import InvalidArgument, SchemaMissing
from tests.eventually import eventually
from tests.threads import at_once
from tests.waiting import sessions_waiting

pytestmark = pytest.mark.core


def send(n: int, text: str = "") -> None:
    """A handler that no test runs."""


@contextmanager
def nobody_commits(dsn: str) -> Iterator[None]:
    """Inside, enqueuing waits for a lock of the table."""
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE pgsync.job_ready IN EXCLUSIVE MODE")
        yield
        holder.rollback()


def enqueuers_wait(database: Any, count: int) -> Callable[[], bool]:
    """Whether so many enqueuing sessions wait for the table."""

    return lambda: sessions_waiting(database) == count


def enqueue_together(
    dsn: str, database: Any, first: Callable[[], Any], others: list[Callable[[], Any]], waiting: int
) -> list[Any]:
    """Enqueue first, and the others while that is under way; returns answers or errors in order."""
    answers: dict[int, Any] = {}

    def work(number: int, enqueue: Callable[[], Any]) -> None:
        try:
            answers[number] = enqueue()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            answers[number] = error

    with nobody_commits(dsn):
        threads = [
            threading.Thread(target=work, args=(number, enqueue))
            for number, enqueue in enumerate([first, *others])
        ]
        threads[0].start()
        eventually(enqueuers_wait(database, 1))
        for thread in threads[1:]:
            thread.start()
        eventually(enqueuers_wait(database, waiting))
    for thread in threads:
        thread.join(30)
    return [answers[number] for number in range(len(threads))]


def commits(database: Any) -> int:
    """In how many transactions the jobs of the database were added."""
    row = database.execute("SELECT count(DISTINCT xmin::text) FROM pgsync.job_ready").fetchone()
    return int(row[0])


def test_what_is_enqueued_meanwhile_shares_a_commit(face: Any, dsn: str, database: Any) -> None:
    task = face.task(queue="mail")(send)
    other = face.task(name="other", priority=7)(send)
    calls = [lambda n=n: task.enqueue(n=n) for n in range(1, 9)]
    calls.append(lambda: other.enqueue(n=9, text='line\nbreak, "quote" and \\ and \u00e9'))
    answers = enqueue_together(dsn, database, lambda: task.enqueue(n=0), calls, 1)
    assert commits(database) <= 3  # the first, the others, and one that was slow to come
    assert all(answer.added and not answer.replaced for answer in answers)
    jobs = [face.job(answer.id) for answer in answers]
    assert [job.args["n"] for job in jobs] == list(range(10))
    assert [(job.task, job.queue, job.priority) for job in jobs] == [
        *[("send", "mail", 0)] * 9,
        ("other", "default", 7),
    ]
    assert jobs[9].args["text"] == 'line\nbreak, "quote" and \\ and \u00e9'


def test_workers_hear_of_every_queue_of_jobs_that_went_together(
    face: Any, dsn: str, database: Any
) -> None:
    """Of ``mail`` it is known that one waits: word goes behind the jobs, of the rest after them."""
    database.execute(
        "SELECT pgsync.worker_heartbeat(pgsync.register_worker('w', 'h', 1, '0', '{*}', 1), true)"
    )
    task = face.task()(send)
    mail, other = task.options(queue="mail"), task.options(queue="other")
    mail.enqueue(n=0)
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("LISTEN pgsync_jobs")
        calls = [lambda n=n, to=to: to.enqueue(n=n) for n, to in enumerate([mail, other] * 3)]
        enqueue_together(dsn, database, lambda: task.enqueue(n=9), calls, 1)
        heard: set[str] = set()
        for word in listener.notifies(timeout=30):
            heard.add(word.payload)
            if heard >= {"mail", "other"}:
                break
    assert heard >= {"mail", "other"}


def test_jobs_for_later_share_the_commit(face: Any, dsn: str, database: Any) -> None:
    task = face.task()(send)
    at = datetime(2999, 3, 29, 2, 30, 0, 17, tzinfo=timezone(timedelta(hours=2)))
    past = at.replace(year=2020)
    answers = enqueue_together(
        dsn,
        database,
        lambda: task.enqueue(n=0),
        [
            lambda: task.enqueue(n=1),
            lambda: task.options(delay=timedelta(days=2, microseconds=500)).enqueue(n=2),
            lambda: task.options(run_at=at, queue="mail", priority=3).enqueue(n=3),
            lambda: task.options(run_at=past).enqueue(n=4),
            lambda: task.options(run_at=at, queue="q" * 2_000).enqueue(n=5),
            lambda: task.options(delay=0).enqueue(n=6),
        ],
        1,
    )
    assert "queue must have at most" in str(answers.pop(5))
    rows = database.execute(
        "SELECT (args ->> 'n')::int, id, state, queue, priority, run_at, run_at - created_at"
        " FROM pgsync.jobs ORDER BY 1"
    ).fetchall()
    assert [row[1] for row in rows] == [answer.id for answer in answers]
    states = ["available", "available", "scheduled", "scheduled", "available", "available"]
    assert [row[2] for row in rows] == states
    assert timedelta(0) <= rows[2][6] - timedelta(days=2, microseconds=500) < timedelta(minutes=1)
    assert rows[3][3:6] == ("mail", 3, at)
    assert rows[4][5] == past


def test_a_bad_job_fails_none_of_its_neighbours(face: Any, dsn: str, database: Any) -> None:
    task = face.task()(send)
    too_long = task.options(queue="q" * 2_000)
    bad_priority = task.options(priority=40_000)
    answers = enqueue_together(
        dsn,
        database,
        lambda: task.enqueue(n=0),
        [
            lambda: task.enqueue(n=1),
            lambda: too_long.enqueue(n=2),
            lambda: task.enqueue(n=3),
            lambda: bad_priority.enqueue(n=4),
            lambda: task.enqueue(n=5, text="nul\0"),
            lambda: task.enqueue(n=6),
        ],
        1,
    )
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [
        InvalidArgument
    ] * 3
    for number, words in ((2, "queue must have at most"), (4, "priority must be"), (5, "NUL")):
        assert words in str(answers[number])
    added = [answer.id for answer in answers if not isinstance(answer, Exception)]
    rows = database.execute("SELECT id, (args ->> 'n')::int FROM pgsync.job_ready ORDER BY 2")
    assert rows.fetchall() == list(zip(added, (0, 1, 3, 6), strict=True))


def test_jobs_that_are_decided_alone_go_alone(face: Any, dsn: str, database: Any) -> None:
    task = face.task()(send)
    once = task.options(unique_key="once")
    answers = enqueue_together(
        dsn,
        database,
        lambda: task.enqueue(n=0),
        [lambda: once.enqueue(n=1), lambda: once.enqueue(n=2)],
        # One of the two waits for the other's key, both for the first transaction's table.
        3,
    )
    assert sorted(answer.added for answer in answers[1:]) == [False, True]
    assert answers[1].id == answers[2].id
    assert len(database.execute("SELECT FROM pgsync.job_ready").fetchall()) == 2


def test_ids_grow_and_are_never_given_twice(face: Any, database: Any) -> None:
    task = face.task()(send)
    ids: list[int] = []

    def work() -> None:
        mine = [task.enqueue(n=n).id for n in range(25)]
        assert mine == sorted(mine)
        ids.extend(mine)

    at_once([work] * 8)
    assert len(set(ids)) == 200
    found = database.execute("SELECT id FROM pgsync.job_ready ORDER BY id").fetchall()
    assert [job_id for (job_id,) in found] == sorted(ids)
    assert commits(database) < 200


def test_each_caller_hears_why_nothing_can_be_enqueued(face: Any, dsn: str, database: Any) -> None:
    database.execute("DROP SCHEMA pgsync CASCADE")
    task = face.task()(send)
    errors: list[str] = []

    def work() -> None:
        with pytest.raises(SchemaMissing) as raised:
            task.enqueue(n=1)
        errors.append(str(raised.value))

    at_once([work] * 3, within=30)
    assert len(errors) == 3
    assert all("pgsync migrate" in error for error in errors)


_LED_BY_THE_MAIN_THREAD = """
import signal, sys, threading, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])

@sync.task()
def send(n): ...

answers = {}

def work(n):
    answers[n] = send.enqueue(n=n).id

def interrupt():
    # Behind the first, whose commit takes a second, stand the main thread and then the others.
    time.sleep(0.6)
    threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3, 4)]
    for thread in threads:
        thread.start()
    # By now the main thread asks for all of them, and its own takes half a minute.
    time.sleep(1.5)
    signal.raise_signal(signal.SIGINT)

first = threading.Thread(target=work, args=(0,))
first.start()
time.sleep(0.3)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt).start()
try:
    send.enqueue(n=1)
except KeyboardInterrupt:
    while len(answers) < 4:
        time.sleep(0.01)
    print(*sorted(answers), flush=True)
sys.stdin.read()
"""


def test_an_interrupted_thread_that_asks_for_others_leaves_them_their_jobs(
    dsn: str, database: Any
) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.args = '{\"n\": 0}' THEN PERFORM pg_sleep(1); END IF;"
        " IF new.args = '{\"n\": 1}' AND NOT EXISTS (SELECT FROM pgsync.job_asked_again)"
        " THEN PERFORM pg_sleep(30); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.job_ready FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _LED_BY_THE_MAIN_THREAD, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().decode() == "0 2 3 4\n"
    rows = database.execute("SELECT (args ->> 'n')::int FROM pgsync.job_ready ORDER BY 1")
    assert [n for (n,) in rows.fetchall() if n != 1] == [0, 2, 3, 4]
    process.kill()
    process.communicate()


_FORKED_MEANWHILE = """
import os, signal, sys, threading, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])

@sync.task()
def send(n): ...

send.enqueue(n=1)
thread = threading.Thread(target=lambda: send.enqueue(n=0))
thread.start()
time.sleep(0.3)
child = os.fork()
if child == 0:
    signal.alarm(20)
    send.enqueue(n=2)
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_child_forked_while_another_thread_enqueues_enqueues_by_itself(
    dsn: str, database: Any
) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.args = '{\"n\": 0}' THEN PERFORM pg_sleep(1.5); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.job_ready FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    done = subprocess.run(
        [sys.executable, "-c", _FORKED_MEANWHILE, dsn],
        stdout=subprocess.PIPE,
        check=True,
        timeout=240,
    )
    assert done.stdout == b"0\n"
    rows = database.execute("SELECT (args ->> 'n')::int FROM pgsync.job_ready ORDER BY 1")
    assert rows.fetchall() == [(0,), (1,), (2,)]


@pytest.mark.parametrize("size", [0, 2_000, 5_000, 300_000])
def test_a_job_that_goes_alone_is_as_it_was_given(face: Any, size: int) -> None:
    task = face.task(queue="mail", priority=-3, max_attempts=7)(send)
    for n in (1, 2):
        job = face.job(task.enqueue(n=n, text="é" * size).id)
        assert job.args == {"n": n, "text": "é" * size}
        assert (job.task, job.queue, job.priority, job.max_attempts) == ("send", "mail", -3, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": 1 << 40}, "priority|out of range"),
        ({"priority": 40_000}, "priority must be"),
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"queue": "q" * 2_000}, "queue must have at most"),
        ({"queue": "nul\0"}, "NUL"),
        ({"queue": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_job_that_goes_alone_is_told_why(
    face: Any, options: dict[str, Any], words: str
) -> None:
    task = face.task()(send)
    for n in (1, 2):
        with pytest.raises(InvalidArgument, match=words):
            task.options(**options).enqueue(n=n)
        assert task.enqueue(n=n).added
