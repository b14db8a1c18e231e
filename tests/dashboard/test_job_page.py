"""The page of a job: its life as it was, its arguments as a tree, its place among others."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given

from pgsync import Coordinator, ReleaseJob, current_job
from pgsync.dashboard.exact import read_exact
from pgsync.dashboard.graph import graph_of
from pgsync.dashboard.timeline import timeline
from pgsync.dashboard.tree import Node, tree_of
from pgsync.masking import HIDDEN
from tests.dashboard.conftest import Browser
from tests.dashboard.site import HOSTILE, enqueue
from tests.dashboard.test_exact import VALUES, as_json

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def failure(attempt: int, began: float, ended: float, worker: int = 1) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "worker": worker,
        "started_at": at(began),
        "ended_at": at(ended),
        "outcome": "failed",
        "error": "no route",
        "traceback": None,
    }


def note(event: str, attempt: int, when: float, **detail: Any) -> dict[str, Any]:
    began = at(when - 0.5)
    given = {"event": event, "attempt": attempt, "at": at(when), "started_at": began}
    return {**given, "worker": 1, "detail": detail}


def test_retries_and_releases_are_told_as_they_were_with_their_logs() -> None:
    job = {"created_at": at(0), "state": "retryable", "run_at": at(90), "result": None}
    attempts = [failure(1, 1, 2), failure(2, 30, 31)]
    notes = [
        note("log", 1, 1.9, lines=[["t", "first"]], dropped=0),
        note("log", 2, 9.9, lines=[["t", "second"]], dropped=3),
        note("released", 2, 10, delay="00:01:00", reason="the other side is closed"),
        note("log", 2, 20, lines=[["t", "third"]]),
        note("released", 2, 20.1, delay="00:00:00"),
        note("log", 2, 30.9, lines=[["t", "fourth"]]),
        note("log", 7, 40, lines=[["t", "of nobody"], "odd", ["too", "many", "parts"]]),
    ]
    told = [
        (each.what, each.attempt, each.note, [text for _, text in each.lines])
        for each in timeline(job, attempts, notes)
    ]
    assert told == [
        ("due", None, "", []),
        ("log", 7, "", ["of nobody"]),
        ("failed", 2, "", ["fourth"]),
        ("released", 2, "", ["third"]),
        ("released", 2, "for 00:01:00, the other side is closed", ["second"]),
        ("failed", 1, "", ["first"]),
        ("enqueued", None, "", []),
    ]


def leaves(node: Node) -> int:
    return sum(map(leaves, node.children)) + node.left_out if node.children else 1


@given(VALUES)
def test_a_tree_is_small_whatever_it_shows(value: Any) -> None:
    assert leaves(tree_of(read_exact(as_json(value)))) <= 1100


def test_a_tree_keeps_numbers_exact_hides_secrets_and_says_what_it_leaves_out() -> None:
    digits = "1" * 400
    args = read_exact(f'{{"n": {digits}.5, "api_key": "k", "list": {list(range(300))}}}')
    by_key = {child.key: child for child in tree_of(args).children}
    assert (by_key["n"].kind, by_key["n"].text) == ("number", f"{digits}.5")
    assert (by_key["api_key"].kind, by_key["api_key"].text) == ("hidden", HIDDEN)
    assert (by_key["list"].text, len(by_key["list"].children)) == ("[300]", 100)
    assert by_key["list"].left_out == 200
    big = tree_of([[list(range(90))] * 90] * 90)
    assert big.text == "[90]"
    assert tree_of("x" * 5000).text.endswith("… (5,002 characters)")


def test_a_graph_has_each_job_once_and_a_line_between_neighbours() -> None:
    def job(number: int) -> dict[str, Any]:
        return {"id": number, "task": "t" * 50, "state": None}

    graph = graph_of(job(5), [job(1), job(2)], [job(7), job(8), job(9)])
    assert graph
    assert [box.id for box in graph.boxes] == [1, 2, 5, 7, 8, 9]
    assert [box.id for box in graph.boxes if box.is_this] == [5]
    assert len(graph.paths) == 5
    for box in graph.boxes:
        assert 0 <= box.x <= graph.width - graph.box_width
        assert 0 <= box.y <= graph.height - graph.box_height
    assert graph_of(job(5), [], []) is None


def test_a_job_tells_its_attempts_with_their_logs_and_how_others_fared(
    browser: Browser, sync: Coordinator
) -> None:
    @sync.task(name="send", max_attempts=3, backoff=3600, tags=["eu"])
    def send(n: int) -> None:
        job = current_job()
        assert job
        job.log(f"{HOSTILE} password=hunter2")
        if n == 2:
            raise RuntimeError("no route")
        if n == 3:
            raise ReleaseJob(3600, f"later {HOSTILE}")

    done, failed, released = (send.enqueue(n=n).id for n in (1, 2, 3))
    sync.run_worker(drain=True)
    pages = [browser.get(f"/jobs/{job}").text for job in (done, failed, released)]
    for text in pages:
        assert "&lt;script&gt;" in text
        assert "<script>alert" not in text
        assert "hunter2" not in text
        assert '<a class="tag" href="/jobs?tag=eu">eu</a>' in text
        assert "Log, 1 line" in text
        assert "pgsync:tags" not in text
    assert re.findall(r'<li class="(\w+)">\s*<p>', pages[0]) == ["completed", "enqueued"]
    assert re.findall(r'<li class="(\w+)">\s*<p>', pages[1]) == ["due", "failed", "enqueued"]
    assert "no route" in pages[1]
    assert re.findall(r'<li class="(\w+)">\s*<p>', pages[2]) == ["due", "released", "enqueued"]
    assert "for 01:00:00, later" in pages[2]
    assert f'<a href="/jobs/{done}">{done}</a>' in pages[1].split("Earlier runs of send")[1]


def test_what_a_job_comes_after_and_before_is_drawn_with_links(
    browser: Browser, database: Any
) -> None:
    first = enqueue(database, HOSTILE)[0]
    query = "SELECT pgsync.enqueue('check', after => %s)"
    middle = database.execute(query, [[first]]).fetchone()[0]
    last = database.execute(query, [[middle]]).fetchone()[0]
    # A claim finds that they wait, and for what.
    register = "SELECT pgsync.register_worker('w', 'h', 1, '0', '{default}', 1)"
    worker = database.execute(register).fetchone()[0]
    database.execute("SELECT pgsync.claim_jobs(%s, '{default}', 10)", [worker])
    text = browser.get(f"/jobs/{middle}").text.split('<svg class="graph"')[1].split("</svg>")[0]
    assert re.findall(r'<a href="/jobs/(\d+)">', text) == [f"{first}", f"{middle}", f"{last}"]
    assert "<script>" not in text
    assert "style=" not in text
    assert 'class="graph"' not in browser.get(f"/jobs/{enqueue(database)[0]}").text


def test_numbers_and_nesting_that_python_cannot_read_are_shown(
    browser: Browser, database: Any
) -> None:
    digits = "7" * 6000
    deep = "[" * 500 + "]" * 500
    query = "SELECT pgsync.enqueue('send', %s)"
    job = database.execute(query, [f'{{"n": {digits}, "x": 0.1000000000000000055511}}'])
    number = job.fetchone()[0]
    nested = database.execute(query, [f'{{"deep": {deep}}}']).fetchone()[0]
    assert digits[:2000] in browser.get(f"/jobs/{number}").text
    assert "0.1000000000000000055511" in browser.get(f"/jobs/{number}").text
    assert "nested too deeply" in browser.get(f"/jobs/{nested}").text
    for path in ("/jobs", f"/jobs/{number}/edit", "/api/jobs", "/"):
        assert browser.get(path).status_code == 200


def test_progress_without_a_total_is_shown_too(browser: Browser, database: Any) -> None:
    job = enqueue(database, "send")[0]
    register = "SELECT pgsync.register_worker('w', 'h', 1, '0', '{default}', 1)"
    worker = database.execute(register).fetchone()[0]
    database.execute("SELECT pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    tell = """SELECT pgsync.report_progress(%s, ARRAY[%s], '{1}', ARRAY['{"done": 1234}'::jsonb])"""
    database.execute(tell, [worker, job])
    for path in (f"/jobs/{job}", "/queues/one?name=default"):
        assert "1,234" in browser.get(path).text
