"""Actions over a real socket: what they change, what they leave in the audit trail, who may."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgsync import Coordinator, Limit, Release
from tests.dashboard.conftest import READ_TOKEN, Browser
from tests.dashboard.site import audit, enqueue


def states(database: Any) -> dict[int, str]:
    return dict(database.execute("SELECT id, state FROM pgsync.all_jobs").fetchall())


@pytest.fixture
def failed(sync: Coordinator) -> list[int]:
    """Three discarded jobs."""

    @sync.task(name="send", max_attempts=1)
    def send(n: int) -> None:
        raise RuntimeError("no route")

    jobs = [send.enqueue(n=n).id for n in range(3)]
    sync.run_worker(drain=True)
    return jobs


def test_one_job_is_retried_and_the_trail_says_by_whom(
    browser: Browser, database: Any, failed: list[int]
) -> None:
    page = browser.act("jobs", "retry", id=failed[0], back=f"/jobs/{failed[0]}")
    assert page.url == f"{browser.url}/jobs/{failed[0]}"
    assert "Retried 1 job." in page.text
    assert "Retried" not in browser.get("/jobs").text
    assert states(database)[failed[0]] == "available"
    assert audit(database) == [("job.retried", f"job {failed[0]}", "ada")]


def test_selected_jobs_are_retried_together(
    browser: Browser, database: Any, failed: list[int]
) -> None:
    browser.act("jobs", "retry", id=failed[:2])
    assert [states(database)[job] for job in failed] == ["available", "available", "discarded"]
    assert audit(database) == [("job.retried", "2 jobs", "ada")]


def test_the_confirmation_names_how_many_a_filter_takes(
    browser: Browser, database: Any, failed: list[int]
) -> None:
    enqueue(database, "other", 2)
    text = browser.get("/jobs/confirm?action=retry&task=send").text
    assert "Retry 3 jobs" in text
    browser.act("jobs", "retry", by_filter="yes", task="send")
    assert set(states(database).values()) == {"available"}
    assert audit(database) == [("job.retried", "3 jobs", "ada")]
    assert "Discard <strong>5</strong> jobs" in browser.get("/jobs/confirm?action=discard").text


def test_waiting_jobs_are_cancelled_and_discarded(browser: Browser, database: Any) -> None:
    first, second = enqueue(database, count=2)
    browser.act("jobs", "cancel", id=first)
    browser.act("jobs", "discard", id=second)
    assert states(database) == {first: "cancelled", second: "discarded"}
    said = browser.act("jobs", "discard", id=second).text
    assert "Discarded 0 jobs. 1 passed over" in said
    assert [row[0] for row in audit(database)] == ["job.cancelled", "job.discarded"]


def test_queues_schedules_and_locks(browser: Browser, sync: Coordinator, database: Any) -> None:
    assert "is paused" in browser.act("queues", "pause", name="mail").text
    assert "goes on" in browser.act("queues", "resume", name="mail").text
    assert "was not paused" in browser.act("queues", "resume", name="mail").text
    database.execute("SELECT pgsync.add_schedule('nightly', 'report', '0 7 * * *')")
    assert "Enqueued job" in browser.act("schedules", "run", name="nightly").text
    browser.act("schedules", "pause", name="nightly", why="a move")
    browser.act("schedules", "resume", name="nightly")
    sync.lock("report", ttl=60).acquire()
    said = browser.act("locks", "release", name="report", why="stuck").text
    assert "was taken from its holder" in said
    assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)
    assert audit(database) == [
        ("queue.paused", "mail", "ada"),
        ("queue.resumed", "mail", "ada"),
        ("schedule.run", "nightly", "ada"),
        ("schedule.paused", "nightly", "ada"),
        ("schedule.resumed", "nightly", "ada"),
        ("lock.forced", "report", "ada"),
    ]
    page = browser.get("/audit").text
    assert "schedule.paused" in page
    assert "a move" in page


def test_the_limits_of_a_queue_are_changed_and_a_change_is_in_the_trail(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    sync.limit_queue("mail", max_running_per_key=2, by="app")
    sync.limit_queue("mail", max_running_per_key=2, by="app")
    page = browser.act(
        "queues",
        "limit",
        name="mail",
        max_running="7",
        max_running_per_key="2",
        max_starts="10",
        starts_per="0.5",
        max_starts_per_key="",
        back="/queues/one?name=mail",
    )
    assert page.url == f"{browser.url}/queues/one?name=mail"
    assert "The limits of queue mail hold from now on." in page.text
    limits = database.execute(
        "SELECT max_running, max_running_per_key, max_starts, starts_per, max_starts_per_key"
        " FROM pgsync.queues WHERE name = 'mail'"
    )
    assert limits.fetchone() == (7, 2, 10, timedelta(seconds=0.5), None)
    detail = database.execute("SELECT actor, detail FROM pgsync.audit ORDER BY id").fetchall()
    assert [each[0] for each in detail] == ["app", "ada"]
    assert detail[1][1] == {
        "before": {"max_running_per_key": 2},
        "now": {
            "max_running": 7,
            "max_running_per_key": 2,
            "max_starts": 10,
            "starts_per": "00:00:00.5",
        },
    }
    for wrong in (
        {"max_running": "0"},
        {"max_running": "2.7"},
        {"max_running": "many"},
        {"max_starts": "5"},
    ):
        assert browser.act("queues", "limit", name="mail", **wrong).status_code == 400
    assert len(audit(database)) == 2


def test_a_limit_is_set_for_one_key_and_unset(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    sync.limiter("graph", Limit(10, per=60)).hit("7")
    said = browser.act("limits", "set", name="graph:7", per="60", max="25", why="their plan").text
    assert "graph:7 is limited to 25" in said
    assert sync.limiter("graph", Limit(10, per=60)).hit("7").remaining == 23
    assert "holds again" in browser.act("limits", "unset", name="graph:7", per="60").text
    assert audit(database) == [("set limit", "graph:7", "ada"), ("unset limit", "graph:7", "ada")]
    for wrong in ("0", "-1", "nan", "inf", "x", "1e12", ""):
        assert browser.act("limits", "set", name="x", per="60", max=wrong).status_code == 400


def test_an_operation_is_started_again_as_it_was_queued(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    ran: list[int] = []

    @sync.operation("count_up", lock="count_up:{to}", ttl=60, queue="sums", blocked=Release())
    def count_up(op: Any, to: int) -> None:
        ran.append(to)

    count_up(to=3)
    run = database.execute("SELECT max(id) FROM pgsync.operations").fetchone()[0]
    assert browser.act("operations", "restart", id=run).status_code == 400  # Never queued yet.
    count_up.enqueue(to=7)
    sync.run_worker(queues=["sums"], drain=True)
    said = browser.act("operations", "restart", id=run, back=f"/operations/{run}").text
    assert "Started again, as job" in said
    job = database.execute(
        "SELECT queue, lock_name, args -> 'to', args #>> '{pgsync:trace,pgsync-actor}'"
        " FROM pgsync.jobs"
    ).fetchall()
    assert job == [("sums", "count_up:3", 3, "ada")]
    assert sync.run_worker(queues=["sums"], drain=True).completed == 1
    assert ran == [3, 7, 3]
    assert audit(database) == [("operation.restarted", "count_up:3", "ada")]
    assert "There is no run 77" in browser.act("operations", "restart", id=77).text
    assert browser.act("operations", "restart", id="x").status_code == 400


def test_a_limit_that_is_set_is_listed_before_it_is_used(browser: Browser, database: Any) -> None:
    database.execute(
        "SELECT pgsync.set_limit('graph:7', 5, '1 minute', actor => 'ada', reason => 'their plan')"
    )
    page = browser.get("/limits").text
    assert "Set for single keys" in page
    assert "their plan" in page
    assert "holds again" in browser.act("limits", "unset", name="graph:7", per="60").text
    assert "Set for single keys" not in browser.get("/limits").text


def test_who_only_reads_sees_no_button_and_changes_nothing(
    url: str, database: Any, failed: list[int]
) -> None:
    reader = Browser(url, READ_TOKEN)
    for path in ("/queues", "/jobs", f"/jobs/{failed[0]}"):
        assert "/do/" not in reader.get(path).text
    assert reader.act("jobs", "retry", id=failed[0]).status_code == 403
    assert reader.act("queues", "pause", name="mail").status_code == 403
    assert audit(database) == []


def test_a_form_of_another_site_or_session_changes_nothing(
    url: str, browser: Browser, database: Any
) -> None:
    other = Browser(url)
    text = other.get("/").text
    foreign = text.split('name="form_token" value="')[1].split('"')[0]
    for token in ("", "x", foreign):
        answer = browser.act("queues", "pause", name="mail", form_token=token)
        assert answer.status_code == 403
    assert audit(database) == []


@pytest.mark.parametrize(
    ("subject", "action", "fields"),
    [
        ("jobs", "retry", {}),
        ("jobs", "retry", {"id": "1; DROP"}),
        ("jobs", "retry", {"by_filter": "yes", "state": "strange"}),
        ("queues", "pause", {"name": ""}),
        ("queues", "pause", {"name": "x" * 2000}),
    ],
)
def test_a_form_that_says_nothing_possible_is_refused(
    browser: Browser, database: Any, subject: str, action: str, fields: dict[str, str]
) -> None:
    assert browser.act(subject, action, **fields).status_code == 400
    assert browser.act("queues", "explode", name="x").status_code == 404
    assert audit(database) == []


@pytest.mark.parametrize("back", ["//evil.example/", "https://evil.example", "\\\\evil", "evil"])
def test_it_leads_back_to_its_own_pages_only(browser: Browser, back: str) -> None:
    assert browser.act("queues", "pause", name="mail", back=back).url == f"{browser.url}/"
