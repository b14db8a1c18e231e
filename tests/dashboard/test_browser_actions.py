"""The dashboard in Chromium: what an operator does there, with a console free of errors."""

from __future__ import annotations

import threading
from typing import Any

from playwright.sync_api import Page, expect

from pgsync import Coordinator
from tests.dashboard.chromium import apart, page, photograph, started
from tests.dashboard.site import HOSTILE, enqueue

__all__ = ["page", "started"]


def test_a_failed_job_is_retried_and_seen_to_complete(page: Page, sync: Coordinator) -> None:
    broken = threading.Event()
    broken.set()

    @sync.task(name="send", max_attempts=1)
    def send() -> None:
        if broken.is_set():
            raise RuntimeError("no route")

    job = send.enqueue()
    apart(lambda: sync.run_worker(drain=True))
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_label("State").select_option("discarded")
    page.get_by_role("link", name=str(job.id), exact=True).click()
    expect(page.locator(".head .badge")).to_have_text("discarded")
    broken.clear()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("Retried 1 job.")
    apart(lambda: sync.run_worker(drain=True))
    expect(page.locator(".head .badge")).to_have_text("completed")


def test_a_running_job_is_cancelled(page: Page, sync: Coordinator, url: str) -> None:
    @sync.task(name="endless", max_attempts=1)
    async def endless() -> None:
        import asyncio

        await asyncio.sleep(60)

    job = endless.enqueue()
    sync.start()
    page.goto(f"{url}/jobs/{job.id}")
    expect(page.locator(".head .badge")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".head .badge")).to_have_text("cancelled")
    sync.stop()


def test_jobs_are_discarded_by_filter_after_a_confirmation(page: Page, database: Any) -> None:
    enqueue(database, "send", 3)
    kept = enqueue(database, "keep")[0]
    page.goto(f"{page.url}jobs?task=send")
    page.get_by_role("link", name="Discard…").click()
    page.get_by_role("button", name="Discard 3 jobs").click()
    expect(page.get_by_role("status")).to_have_text("Discarded 3 jobs.")
    left = database.execute("SELECT id FROM pgsync.job_ready").fetchall()
    assert left == [(kept,)]


def test_a_lock_is_released_by_force(page: Page, sync: Coordinator, database: Any) -> None:
    sync.lock("report", ttl=600, owner="ada@web-1").acquire()
    page.get_by_role("link", name="Locks").click()
    row = page.get_by_role("row").filter(has_text="report")
    row.get_by_text("Release…").click()
    row.get_by_label("Why").fill("stuck")
    row.get_by_role("button", name="Release by force").click()
    expect(page.get_by_role("status")).to_contain_text("was taken from its holder")
    expect(page.locator("#live")).to_contain_text("No lock is held.")
    page.get_by_role("link", name="Audit").click()
    expect(page.locator("#live tbody tr").first).to_contain_text("lock.forced")
    expect(page.locator("#live tbody tr").first).to_contain_text("stuck")


def test_a_queue_is_paused_and_goes_on(page: Page, database: Any) -> None:
    enqueue(database)
    page.get_by_role("link", name="Queues").click()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#live .badge.paused")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#live .badge.paused")).to_have_count(0)
    assert [row[0] for row in database.execute("SELECT action FROM pgsync.audit").fetchall()] == [
        "queue.resumed",
        "queue.paused",
    ]


def test_a_queues_limit_is_edited_live(page: Page, sync: Coordinator, database: Any) -> None:
    enqueue(database)
    sync.limit_queue("default", max_running=5)
    page.get_by_role("link", name="Queues").click()
    page.locator("#live").get_by_role("link", name="default").click()
    expect(page.locator("#pause.fresh")).to_be_visible()
    page.get_by_text("Change limits…").click()
    field = page.get_by_label("At once", exact=True)
    expect(field).to_have_value("5")
    field.fill("2")
    # What streams in meanwhile takes away nothing of what is being typed.
    database.execute("SELECT pgsync.pause_queue('default', 'grace')")
    page.get_by_role("button", name="Set limits").click()
    expect(page.get_by_role("status")).to_contain_text("hold from now on")
    expect(page.locator("#live .badge.paused")).to_be_visible()
    assert database.execute("SELECT max_running FROM pgsync.queue").fetchone() == (2,)
    photograph(page, "queue-limited")


def test_a_waiting_job_is_edited_and_another_like_it_added(
    page: Page, database: Any, url: str
) -> None:
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    job = enqueue(database, "send", to="ada", note=HOSTILE, **{"pgsync:tags": [HOSTILE]})[0]
    page.goto(f"{url}/jobs/{job}")
    page.get_by_role("link", name="Edit…").click()
    field = page.get_by_label("Arguments")
    expect(field).to_contain_text("ada")
    field.fill(field.input_value().replace('"ada"', '"bob"'))
    page.get_by_label("Priority").fill("7")
    page.get_by_label("Due, in UTC").fill("2999-01-01T08:00:00")
    photograph(page, "job-edit")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text(f"Job {job} was changed.")
    expect(page.locator(".head .badge")).to_have_text("scheduled")
    page.get_by_role("link", name="One more like it…").click()
    page.get_by_label("Task").fill("other")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_role("status")).to_have_text(f"Enqueued job {job + 1}.")
    rows = database.execute("SELECT task, args ->> 'to', priority FROM pgsync.jobs ORDER BY id")
    assert rows.fetchall() == [("send", "bob", 7), ("other", "bob", 7)]
    for place in ("jobs", f"jobs/{job}", f"jobs/{job}/edit"):
        page.goto(f"{url}/{place}")
        assert page.locator("#live img, #live script, main img, main script").count() == 0
    assert said == []


def test_a_schedule_is_changed_and_seen_to_be(page: Page, database: Any, url: str) -> None:
    database.execute("SELECT pgsync.add_schedule('nightly', 'report', '0 3 * * *')")
    page.get_by_role("link", name="Schedules").click()
    page.get_by_role("link", name="nightly").click()
    expect(page.get_by_role("heading", name="At 03:00")).to_be_visible()
    page.get_by_text("Change…").click()
    page.get_by_label("Crontab line").fill("*/10 * * * *")
    page.get_by_label("Why").fill("more often")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("is changed")
    expect(page.get_by_role("heading", name="Every 10 minutes")).to_be_visible()
    expect(page.locator("#live")).to_contain_text("more often")
    photograph(page, "schedule")


def test_an_operation_is_started_again(page: Page, sync: Coordinator, url: str) -> None:
    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(4, 4)

    template_sync.enqueue(connection_id=7)
    apart(lambda: sync.run_worker(drain=True))
    page.get_by_role("link", name="Operations", exact=True).click()
    page.get_by_role("link", name="template_sync:connection:7").click()
    page.get_by_role("button", name="Start again").click()
    expect(page.get_by_role("status")).to_contain_text("Started again, as job")
    apart(lambda: sync.run_worker(drain=True))
    others = page.locator("section").filter(has_text="Other runs of this key")
    expect(others.locator("tbody tr")).to_have_count(1)
    expect(others).to_contain_text("completed")
