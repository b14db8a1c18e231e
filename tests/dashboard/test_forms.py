"""Forms by which jobs and schedules are changed: what they keep, refuse and record."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest

from tests.dashboard.conftest import READ_TOKEN, Browser
from tests.dashboard.site import audit, enqueue


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
