"""Actions over a real socket: what they change, what they leave in the audit trail, who may."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest

from pgsync import Coordinator, Limit, Release
from tests.dashboard.conftest import READ_TOKEN, Browser
from tests.dashboard.test_pages import enqueue


def audit(database: Any) -> list[tuple[str, str, str]]:
    rows = database.execute("SELECT action, subject, actor FROM pgsync.audit ORDER BY id")
    return rows.fetchall()


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
    for wrong in ({"max_running": "0"}, {"max_starts": "5"}, {"max_running": "many"}):
        assert browser.act("queues", "limit", name="mail", **wrong).status_code == 400
    assert len(audit(database)) == 2


def form_of(browser: Browser, path: str) -> dict[str, str]:
    """The fields of the form of a page, as they are sent unless somebody changes them."""
    text = browser.get(path).text.split('class="sheet-page"')[1].split("</form>")[0]
    fields = dict(re.findall(r'name="(\w+)"[^>]* value="([^"]*)"', text))
    fields["args"] = unescape(text.split("spellcheck")[1].split(">", 1)[1].split("</textarea")[0])
    del fields["form_token"]
    return fields


def test_a_waiting_job_is_edited_with_its_secrets_kept(browser: Browser, database: Any) -> None:
    digits = "1" * 40
    query = "SELECT pgsync.enqueue('send', %s)"
    args = f'{{"to": "ada", "api_key": "k-1", "n": {digits}, "x": 0.1{digits}}}'
    job = database.execute(query, [args]).fetchone()[0]
    fields = form_of(browser, f"/jobs/{job}/edit")
    assert "k-1" not in fields["args"]
    assert f"0.1{digits}" in fields["args"]
    fields["args"] = fields["args"].replace("ada", "bob")
    fields["priority"] = "3"
    page = browser.act("jobs", "edit", **fields)
    assert page.url == f"{browser.url}/jobs/{job}"
    assert f"Job {job} was changed." in page.text
    row = database.execute("SELECT args::text, priority, state FROM pgsync.jobs").fetchone()
    assert json.loads(row[0], parse_float=str) == {
        "to": "bob",
        "api_key": "k-1",
        "n": int(digits),
        "x": f"0.1{digits}",
    }
    assert row[1:] == (3, "available")
    assert audit(database) == [("job.edited", f"job {job}", "ada")]
    # What was loaded before that change is not written over it.
    again = browser.act("jobs", "edit", **fields)
    assert again.status_code == 409
    assert "load it again" in again.text
    assert "bob" in again.text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("args", '{"to": ', "not JSON"),
        ("args", "[1]", "must be a JSON object"),
        ("args", '{"n": NaN}', "not JSON"),
        ("args", '{"n": "\\ud800"}', "not JSON"),
        ("args", '{"n": "\\u0000"}', "Unicode escape"),
        ("priority", "soon", "whole number"),
        ("priority", "99999", "-32768 to 32767"),
        ("run_at", "tomorrow", "moment in UTC"),
    ],
)
def test_a_form_that_is_wrong_comes_back_with_all_that_was_typed(
    browser: Browser, database: Any, field: str, value: str, message: str
) -> None:
    job = enqueue(database, "send", to="ada")[0]
    fields = {**form_of(browser, f"/jobs/{job}/edit"), field: value}
    answer = browser.act("jobs", "edit", **fields)
    assert answer.status_code == 400
    assert message in answer.text
    assert value in unescape(answer.text)
    new = {**form_of(browser, "/jobs/new"), "task": "a new one", field: value}
    answer = browser.act("jobs", "add", **new)
    assert answer.status_code == 400
    assert message in answer.text
    assert "a new one" in answer.text
    assert audit(database) == []


def test_a_job_is_added_by_hand_like_another(browser: Browser, database: Any) -> None:
    job = enqueue(database, "send", to="ada", password="hunter2")[0]
    fields = form_of(browser, f"/jobs/new?like={job}")
    assert "hunter2" not in fields["args"]
    answer = browser.act("jobs", "add", **fields)
    assert answer.status_code == 400
    assert "put values where" in answer.text
    fields |= {"args": '{"to": "bob", "n": 12345678901234567890123}', "run_at": "2999-01-01T08:00"}
    assert "Enqueued job" in browser.act("jobs", "add", **fields).text
    row = database.execute(
        "SELECT task, args, state, run_at::text FROM pgsync.jobs WHERE id <> %s", [job]
    ).fetchone()
    args = {"to": "bob", "n": 12345678901234567890123}
    assert row[:3] == ("send", args, "scheduled")
    assert audit(database) == [("job.enqueued", f"job {job + 1}", "ada")]


def test_a_job_may_be_edited_whose_arguments_are_as_long_as_can_be(
    browser: Browser, database: Any
) -> None:
    job = enqueue(database, "send", text="x" * 1_000_000)[0]
    fields = form_of(browser, f"/jobs/{job}/edit")
    fields["args"] = fields["args"].replace("xx", "<>")
    assert f"Job {job} was changed." in browser.act("jobs", "edit", **fields).text
    row = database.execute("SELECT args ->> 'text' FROM pgsync.jobs").fetchone()
    assert row == ("<>" * 500_000,)


def test_a_job_that_runs_or_that_another_may_not_edit_is_left_alone(
    browser: Browser, url: str, database: Any
) -> None:
    job = enqueue(database, "send", to="ada")[0]
    fields = form_of(browser, f"/jobs/{job}/edit")
    reader = Browser(url, READ_TOKEN)
    assert "only reads" in reader.get(f"/jobs/{job}/edit").text
    assert "only reads" in reader.get("/jobs/new").text
    assert "Edit…" not in reader.get(f"/jobs/{job}").text
    for action in ("edit", "add"):
        assert reader.act("jobs", action, **fields).status_code == 403
        assert browser.act("jobs", action, **{**fields, "form_token": "x"}).status_code == 403
    register = "SELECT pgsync.register_worker('w', 'h', 1, '0', '{default}', 1)"
    worker = database.execute(register).fetchone()[0]
    database.execute("SELECT pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    answer = browser.act("jobs", "edit", **{**fields, "priority": "5"})
    assert answer.status_code == 409
    assert f"job {job} is running" in answer.text
    assert browser.get(f"/jobs/{job}/edit").status_code == 409
    for path in ("/jobs/999999/edit", f"/jobs/{2**70}/edit"):
        assert browser.get(path).status_code in (400, 404)
    assert audit(database) == []


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


def test_a_schedule_is_changed_and_the_trail_has_what_it_was(
    browser: Browser, database: Any
) -> None:
    database.execute("SELECT pgsync.add_schedule('nightly', 'report', '0 3 * * *')")
    fields = {
        "name": "nightly",
        "kind": "cron",
        "expression": "30 4 * * 1-5",
        "timezone": "Europe/Berlin",
        "queue": "reports",
        "priority": "2",
        "max_attempts": "7",
        "why": "the office opens later",
    }
    said = browser.act("schedules", "change", **fields).text
    assert "Schedule nightly is changed" in said
    found = database.execute(
        "SELECT expression, timezone, queue, priority, max_attempts, task FROM pgsync.schedules"
    ).fetchall()
    assert found == [("30 4 * * 1-5", "Europe/Berlin", "reports", 2, 7, "report")]
    assert audit(database) == [("schedule.changed", "nightly", "ada")]
    (detail,) = database.execute("SELECT detail FROM pgsync.audit").fetchone()
    assert detail["why"] == "the office opens later"
    assert detail["from"]["expression"] == "0 3 * * *"
    assert detail["to"]["expression"] == "30 4 * * 1-5"
    page = browser.get("/schedules/one?name=nightly").text
    assert "At 04:30, Monday through Friday" in page
    assert "the office opens later" in page
    for wrong in (
        {"expression": "61 * * * *"},
        {"expression": "0 0 31 2 *"},
        {"kind": "date", "expression": "2001-01-01T00:00:00+00:00"},
        {"kind": "odd"},
        {"timezone": "Mars/Base"},
        {"priority": "high"},
        {"queue": ""},
    ):
        assert browser.act("schedules", "change", **{**fields, **wrong}).status_code == 400
    assert len(audit(database)) == 1


def test_all_of_a_schedule_is_changed_by_its_form_and_its_secrets_kept(
    browser: Browser, database: Any
) -> None:
    database.execute(
        "SELECT pgsync.add_schedule('nightly', 'report', '0 3 * * *', jitter => '90 s',"
        """ args => '{"days": 7, "api_key": "k-1", "to": "ada"}')"""
    )
    fields = form_of(browser, "/schedules/edit?name=nightly")
    assert (fields["misfire_grace"], fields["jitter"]) == ("60", "90")
    assert "k-1" not in fields["args"]
    # The choices of lists are not read from the page.
    fields |= {"kind": "cron", "misfire": "all", "misfire_grace": "0.5", "misfire_limit": "9"}
    fields |= {"args": fields["args"].replace("ada", "bob" * 2_000), "jitter": "0"}
    page = browser.act("schedules", "change", **fields)
    assert page.url == f"{browser.url}/schedules/one?name=nightly"
    assert "Schedule nightly is changed" in page.text
    row = database.execute(
        "SELECT args, misfire, misfire_grace, misfire_limit, jitter FROM pgsync.schedules"
    ).fetchone()
    args = {"days": 7, "api_key": "k-1", "to": "bob" * 2_000}
    assert row == (args, "all", timedelta(seconds=0.5), 9, timedelta(0))
    for name, value, message in (
        ("args", "[1]", "must be a JSON object"),
        ("misfire_grace", "0", "above zero"),
        ("misfire_grace", "soon", "above zero"),
        ("misfire_limit", "10001", "from 1 to 10000"),
        ("misfire", "twice", "skip, once or all"),
        ("jitter", "-1", "above zero"),
        ("expression", "0 0 31 2 *", "never due"),
    ):
        answer = browser.act("schedules", "change", **{**fields, name: value, "why": "typed"})
        assert answer.status_code == 400
        assert message in unescape(answer.text)
        assert 'value="typed"' in answer.text
    assert len(audit(database)) == 1
    assert browser.get("/schedules/edit?name=weekly").status_code == 404


def test_a_schedule_of_code_is_not_changed_here(browser: Browser, database: Any) -> None:
    database.execute("SELECT pgsync.add_schedule('nightly', 'report', '0 3 * * *')")
    database.execute("UPDATE pgsync.schedule SET app = 'shop'")
    text = browser.get("/schedules/one?name=nightly").text
    assert "declared in the code of shop" in text
    assert "schedules/edit" not in text
    assert browser.get("/schedules/edit?name=nightly").status_code == 409
    fields = {"name": "nightly", "kind": "cron", "expression": "0 4 * * *", "timezone": "UTC"}
    more = {"queue": "default", "priority": "0", "max_attempts": "5"}
    assert "declared by the code" in browser.act("schedules", "change", **fields, **more).text
    assert audit(database) == []


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
    job = database.execute("SELECT queue, lock_name, args FROM pgsync.jobs").fetchall()
    assert job == [("sums", "count_up:3", {"to": 3})]
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
