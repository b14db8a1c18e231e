"""Each page over a real socket, as a browser without JavaScript sees it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from starlette.applications import Starlette
from starlette.routing import Mount

from pgsync import AsyncCoordinator, Coordinator, Limit
from pgsync.dashboard import create_app
from pgsync.dashboard.pages import PAGES
from pgsync.dashboard.rhythms import in_words
from tests.dashboard.conftest import TOKEN, Browser
from tests.dashboard.site import HOSTILE, enqueue
from tests.eventually import eventually
from tests.serving import serving

LISTS = [page for page in PAGES if page.key]


@pytest.mark.parametrize("page", LISTS, ids=lambda page: page.name)
def test_a_page_with_nothing_to_show_says_what_to_do(browser: Browser, page: Any) -> None:
    answer = browser.get(page.path)
    assert answer.status_code == 200
    assert f"<h1>{page.title}</h1>" in answer.text
    assert 'class="empty"' in answer.text


@pytest.mark.parametrize("page", LISTS, ids=lambda page: page.name)
def test_hostile_names_and_arguments_are_escaped(
    browser: Browser, page: Any, sync: Coordinator, database: Any
) -> None:
    job = enqueue(database, HOSTILE, text=HOSTILE)[0]
    database.execute("SELECT pgsync.pause_queue(%s, %s)", [HOSTILE, HOSTILE])
    database.execute("SELECT pgsync.add_schedule(%s, %s, '0 7 * * *')", [HOSTILE, HOSTILE])
    with sync.lock(HOSTILE, ttl=60, owner=HOSTILE):
        sync.limiter(HOSTILE, Limit(5, per=60)).hit("x")
        for path in (page.path, f"/jobs/{job}"):
            text = browser.get(path).text
            assert "<script>alert" not in text
            assert "<img src=x" not in text
            if page.name not in ("workers", "maintenance", "operations"):
                assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_overview_tells_what_needs_a_person(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    enqueue(database, "send")
    sync.pause_queue("mail")

    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(3, 4)
        text = browser.get("/").text
        assert "template_sync:connection:7" in text
        assert "3 / 4" in text
        assert "paused queue" in text

    template_sync(connection_id=7)
    assert "template_sync:connection:7" in browser.get("/operations").text


def test_locks_tell_who_was_waited_for(browser: Browser, database: Any) -> None:
    assert "Contention" not in browser.get("/locks").text
    database.execute(
        "INSERT INTO pgsync.lock_contention_hour VALUES"
        " (date_trunc('hour', now(), 'UTC'), 'report', '90 s', 3, now(), 'ada', %s)",
        [HOSTILE],
    )
    page = browser.get("/locks").text
    assert "1 min 30 s" in page
    assert "&lt;script&gt;alert(1)" in page
    (row,) = browser.get("/api/contention").json()
    assert (row["name"], row["waited"], row["hours"]) == ("report", 90, [0] * 23 + [90])


def test_a_schedule_tells_its_rhythm_and_what_became_of_its_fires(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    database.execute(
        "SELECT pgsync.add_schedule('nightly', 'report', '30 2 * * *', queue => 'q'),"
        " pgsync.add_schedule('often', 'ping', '900', kind => 'interval', jitter => '1 min')"
    )
    sync.task(name="report", queue="q")(lambda: None)
    assert browser.act("schedules", "run", name="nightly").status_code == 200
    sync.run_worker(queues=["q"], drain=True)
    database.execute(
        "UPDATE pgsync.schedule SET next_fire_at = '2030-01-01 02:30+00' WHERE name = 'nightly'"
    )
    database.execute(
        "UPDATE pgsync.schedule SET next_fire_at = '2030-01-01 00:15+00' WHERE name = 'often'"
    )
    listed = browser.get("/schedules").text
    assert "At 02:30" in listed
    assert "Every 15 min" in listed
    page = browser.get("/schedules/one?name=nightly").text
    for day in range(1, 6):
        assert f"2030-01-0{day} 02:30:00" in page
    assert "by hand" in page
    assert "completed" in page
    page = browser.get("/schedules/one?name=often").text
    assert "2030-01-01 01:15:00" in page
    assert "up to 1 min" in page
    assert "It has not fired yet." in page
    assert browser.get("/schedules/one?name=none").status_code == 404


@pytest.mark.parametrize(
    ("kind", "expression", "words"),
    [
        ("cron", "*/5 * * * *", "Every 5 minutes"),
        ("cron", "@daily", "At 00:00"),
        ("cron", "30 2 * * sun", "At 02:30, only on Sunday"),
        ("cron", "hour='2' minute='30'", "hour='2' minute='30'"),
        ("interval", "5400", "Every 1 h 30 min"),
        (
            "interval",
            "60 from 2026-01-01T00:00:00+00:00",
            "Every 1 min, counted from 2026-01-01 00:00:00 UTC",
        ),
        ("date", "2026-03-01T08:00:00+01:00", "Once, at 2026-03-01 07:00:00 UTC"),
        ("date", "next tuesday", "next tuesday"),
    ],
)
def test_a_rhythm_is_told_in_words(kind: str, expression: str, words: str) -> None:
    assert in_words(kind, expression) == words


def test_a_page_is_looked_at_as_often_as_one_wants(browser: Browser, database: Any) -> None:
    enqueue(database, "send")
    stream = {"Accept": "text/event-stream"}
    with browser.get("/jobs?task=send&every=60", headers=stream, stream=True) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        # The way back of its buttons is the page, not the stream.
        eventually(lambda: 'value="/jobs?task=send"' in next(lines))
    for odd in ("0", "-1", "1e9", "x", ""):
        assert browser.get(f"/jobs?every={odd}").status_code == 200


def test_workers_are_listed_with_what_they_do(browser: Browser, database: Any) -> None:
    database.execute(
        "SELECT pgsync.register_worker('w', 'here', 7, '1', ARRAY['mail'], 3),"
        " pgsync.register_worker('s', 'here', 8, '1', '{}', 0, '{scheduler,maintenance}')"
    )
    text = browser.get("/workers").text
    assert "<td>worker</td>" in text
    assert "<td>scheduler, maintenance</td>" in text
    assert [each["kinds"] for each in browser.get("/api/workers").json()] == [
        ["worker"],
        ["scheduler", "maintenance"],
    ]


def test_the_overview_tells_of_discarded_jobs_and_of_queues_that_nobody_serves(
    browser: Browser, database: Any
) -> None:
    database.execute(
        "INSERT INTO pgsync.throughput_minute SELECT date_trunc('minute', now()), 'mail', %s,"
        " 'discarded', 7, '14 s', '0', '2 s', '1 s'",
        [HOSTILE],
    )
    database.execute("UPDATE pgsync.throughput_mark SET counted_until = now() + interval '2 min'")
    database.execute("SELECT pgsync.enqueue('send', queue => 'lonely')")
    database.execute("SELECT pgsync.snapshot_queues()")
    text = browser.get("/").text
    assert "7 of &#34;&gt;&lt;script&gt;" in text
    assert 'href="/jobs?state=discarded&amp;since=1h"' in text
    assert "lonely has jobs that nobody claims" in text
    assert "<script>alert" not in text
    mail = text.split('queues/one?name=mail"')[1].split("</tr>")[0]
    assert "at most 7" in mail
    assert "2 s" in mail
    assert "campaign" not in text


def test_the_overview_tells_whose_message_may_or_may_not_have_been_sent(
    browser: Browser, database: Any
) -> None:
    workspace = "INSERT INTO pgsync_modules.workspace (name) VALUES ('W') RETURNING id"
    connection = (
        "INSERT INTO pgsync_modules.connection"
        " (workspace_id, name, waba_id, phone_number_id, token)"
        " VALUES (%s, 'N', '1', '2', 't') RETURNING id"
    )
    campaign = (
        "INSERT INTO pgsync_modules.campaign (workspace_id, connection_id, name, template_name,"
        " language, state) VALUES (%s, %s, 'spring', 't', 'de', 'sending') RETURNING id"
    )
    its = database.execute(workspace).fetchone()[0]
    line = database.execute(connection, [its]).fetchone()[0]
    number = database.execute(campaign, [its, line]).fetchone()[0]
    database.execute(
        "INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, state)"
        " SELECT %s, '+' || n, CASE WHEN n < 3 THEN 'unknown' ELSE 'sent' END"
        " FROM generate_series(1, 5) AS n",
        [number],
    )
    text = browser.get("/").text
    assert "unknown recipients" in text
    assert f"2 of campaign {number}, spring" in text


def test_a_job_tells_its_attempts_and_hides_its_secrets(
    browser: Browser, sync: Coordinator
) -> None:
    @sync.task(max_attempts=1)
    def send(to: str, password: str, options: dict[str, Any]) -> None:
        raise RuntimeError(f"refused <b>{to}</b>, password={password}")

    job = send.enqueue(to="ada", password="hunter2", options={"api_key": "k-123", "big": 2**70})
    sync.run_worker(drain=True)
    text = browser.get(f"/jobs/{job.id}").text
    assert "refused &lt;b&gt;ada&lt;/b&gt;" in text
    assert "Traceback" in text
    assert str(2**70) in text
    for shown in (text, browser.get("/jobs").text, browser.get("/api/jobs").text):
        assert "hunter2" not in shown
        assert "k-123" not in shown


def test_a_job_that_waits_tells_why(browser: Browser, sync: Coordinator, database: Any) -> None:
    sync.pause_queue("default", by="grace")
    job = enqueue(database)[0]
    assert "Queue paused" in browser.get(f"/jobs/{job}").text
    assert browser.get("/jobs/999999999").status_code == 404
    assert browser.get(f"/jobs/{2**70}").status_code == 400


def test_a_queue_tells_its_workers_depth_and_limits(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    name = f"a/b?c={HOSTILE}"
    sync.limit_queue(name, max_running=3)
    database.execute("SELECT pgsync.enqueue('send', queue => %s)", [name])
    database.execute("SELECT pgsync.register_worker('w-1', 'h', 1, '0', ARRAY[%s, 'b'], 4)", [name])
    assert f'"/queues/one?{urlencode({"name": name})}"' in browser.get("/queues").text
    page = browser.get("/queues/one", params={"name": name}).text
    assert "w-1" in page
    assert 'max="3"' in page
    assert 'name="max_running" type="number" min="1" value="3"' in page
    assert "<script>alert" not in page
    assert browser.get("/queues/one?name=nothing").status_code == 404
    assert browser.get("/queues/one").status_code == 404


def test_badges_tell_how_a_queue_is_held_back(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    def badges() -> list[str]:
        head = browser.get("/queues/one?name=mail").text.split('<div class="head">')[1]
        return re.findall(r'class="badge [\w-]+">([\w ]+)<', head.split("<dl")[0])

    def worker(name: str) -> int:
        register = "SELECT pgsync.register_worker(%s, 'h', 1, '0', '{mail}', 1)"
        return database.execute(register, [name]).fetchone()[0]

    job = database.execute("SELECT pgsync.enqueue('send', queue => 'mail')").fetchone()[0]
    assert badges() == ["no worker"]
    first, second = worker("one"), worker("two")
    assert badges() == []
    database.execute("SELECT pgsync.worker_stops(%s)", [second])
    assert badges() == ["partly paused"]
    claimed = database.execute("SELECT id FROM pgsync.claim_jobs(%s, '{mail}', 1)", [first])
    assert claimed.fetchone() == (job,)
    sync.pause_queue("mail")
    assert badges() == ["paused", "draining"]
    sync.resume_queue("mail")
    database.execute("SELECT pgsync.worker_stops(%s)", [first])
    assert badges() == ["draining"]
    states = database.execute("SELECT state FROM pgsync.workers").fetchall()
    assert states == [("stopping",), ("stopping",)]


def test_a_page_streams_what_changes(browser: Browser, database: Any) -> None:
    with browser.get("/jobs", headers={"Accept": "text/event-stream"}, stream=True) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines(decode_unicode=True)
        eventually(lambda: "There are no jobs" in next(lines))
        enqueue(database, "brand_new")
        eventually(lambda: "brand_new" in next(lines))


def test_a_stream_needs_a_session(url: str) -> None:
    answer = requests.get(url, headers={"Accept": "text/event-stream"}, timeout=60)
    assert answer.status_code == 401


def test_arguments_are_hidden_in_lists_on_request(dsn: str, database: Any) -> None:
    database.execute("SELECT pgsync.enqueue('t', '{\"to\": \"somebody\"}')")
    with serving(create_app(AsyncCoordinator(dsn), TOKEN, hide_args=True)) as url:
        browser = Browser(url)
        assert "somebody" not in browser.get("/jobs").text
        assert "somebody" in browser.get("/jobs/1").text
    with serving(create_app(AsyncCoordinator(dsn), TOKEN)) as url:
        assert "somebody" in Browser(url).get("/jobs").text


def test_mounted_under_a_prefix_its_links_stay_there(dsn: str, database: Any) -> None:
    job = enqueue(database)[0]
    app = Starlette(routes=[Mount("/ops", create_app(AsyncCoordinator(dsn), TOKEN))])
    with serving(app) as url:
        browser = Browser(f"{url}/ops")
        text = browser.get("/jobs").text
        assert f'href="/ops/jobs/{job}"' in text
        assert 'src="/ops/static/dashboard.js"' in text
        assert browser.get(f"/jobs/{job}").status_code == 200
        assert browser.act("queues", "pause", name="mail", back="/ops/queues").url == (
            f"{url}/ops/queues"
        )
