"""The dashboard in Chromium: how its pages behave, with a console free of errors."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pgsync import Coordinator, current_job
from pgsync.dashboard.pages import PAGES
from tests.dashboard.chromium import apart, opened, page, photograph, sign_in, started
from tests.dashboard.conftest import READ_TOKEN
from tests.dashboard.site import HOSTILE, busy_site, enqueue
from tests.eventually import eventually

__all__ = ["page", "started"]

LISTS = [each for each in PAGES if each.key]


def test_every_page_is_read_by_its_link_and_by_its_key(
    page: Page, sync: Coordinator, database: Any
) -> None:
    with busy_site(sync, database):
        apart(lambda: sync.run_worker(queues=["webhooks"], drain=True))
        for each in LISTS:
            page.get_by_role("navigation").get_by_role("link", name=each.title).click()
            expect(page.get_by_role("heading", name=each.title, level=1)).to_be_visible()
            expect(page.locator("#pause.fresh")).to_be_visible()
            photograph(page, each.name)
        page.goto(f"{page.url.rpartition('/')[0]}/queues/one?name=webhooks")
        expect(page.locator("#live")).to_contain_text("What it lets through")
        photograph(page, "queue")
        page.keyboard.press("g")
        page.keyboard.press("q")
        expect(page.get_by_role("heading", name="Queues", level=1)).to_be_visible()
        page.goto(f"{page.url.removesuffix('/queues')}/jobs?state=discarded")
        page.locator("#live tbody a").first.click()
        expect(page.locator(".timeline")).to_contain_text("closed the connection")
        expect(page.locator("#live")).not_to_contain_text("whsec_1")
        expect(page.locator("#live")).to_contain_text("Jobs like this in the past hour")
        photograph(page, "job")


@pytest.mark.skipif("PGSYNC_SCREENSHOTS" not in os.environ, reason="only to look at")
@pytest.mark.parametrize(("dark", "width"), [(True, 1280), (False, 390)], ids=["dark", "narrow"])
def test_pages_to_look_at(
    started: Browser, url: str, sync: Coordinator, database: Any, dark: bool, width: int
) -> None:
    with busy_site(sync, database), opened(started, dark=dark, width=width) as page:
        sign_in(page, url)
        for path in ("", "jobs", "jobs/1", "jobs/1/edit", "queues", "queues/one?name=mail"):
            page.goto(f"{url}/{path}")
            photograph(
                page, f"{'dark' if dark else 'narrow'}-{path.partition('?')[0] or 'overview'}"
            )


def test_filters_act_while_one_types_and_stay_in_the_url(page: Page, database: Any) -> None:
    wanted = enqueue(database, "send", to="ada")[0]
    enqueue(database, "send", to="bob")
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("#live tbody tr")).to_have_count(2)
    page.get_by_label("Argument").fill("to=ada")
    expect(page.locator("#live tbody tr")).to_have_count(1)
    page.wait_for_url("**/jobs?arg=to%3Dada")
    page.reload()
    expect(page.locator("#live tbody tr")).to_have_count(1)
    expect(page.locator("#live tbody")).to_contain_text(str(wanted))
    # Also the stream of what comes next is filtered.
    newest = enqueue(database, "send", to="ada")[0]
    enqueue(database, "send", to="bob")
    expect(page.locator("#live tbody tr")).to_have_count(2)
    expect(page.locator("#live tbody")).to_contain_text(str(newest))


def test_an_operations_progress_moves(page: Page, sync: Coordinator) -> None:
    steps = [threading.Event() for _ in range(2)]

    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(1, 4)
        assert steps[0].wait(30)
        while not steps[1].wait(0.3):  # What follows another report at once is told later.
            op.progress(3, 4)

    running = threading.Thread(target=lambda: template_sync(connection_id=7))
    running.start()
    try:
        row = page.get_by_role("row").filter(has_text="template_sync:connection:7")
        expect(row).to_contain_text("1 / 4")
        steps[0].set()
        expect(row).to_contain_text("3 / 4")
        row.get_by_role("link").click()
        expect(page.locator(".head .badge")).to_have_text("running")
    finally:
        for step in steps:
            step.set()
        running.join(30)
    expect(page.locator(".head .badge")).to_have_text("completed")


def test_a_link_that_is_pressed_stays_until_it_is_let_go(page: Page, database: Any) -> None:
    enqueue(database)
    page.add_init_script(
        "const Source = EventSource; window.EventSource = class extends Source {"
        " set onmessage(hear)"
        " { super.onmessage = (each) => { hear(each); console.log('heard'); }; } };"
    )
    with page.expect_console_message(timeout=60_000):
        page.get_by_role("link", name="Queues").click()
    page.locator("#live").get_by_role("link", name="default").hover()
    page.mouse.down()
    with page.expect_console_message(timeout=60_000):
        database.execute("SELECT pgsync.pause_queue('default', 'grace')")
    page.mouse.up()
    expect(page.get_by_text("Change limits…")).to_be_visible()


def test_how_often_a_page_looks_again_is_kept(page: Page, database: Any) -> None:
    streams: list[str] = []
    page.on("request", lambda asked: streams.append(asked.url) if "every=" in asked.url else None)
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("#pause.fresh")).to_be_visible()
    page.keyboard.press("i")
    expect(page.get_by_label("every")).to_be_focused()
    page.get_by_label("every").select_option("30")
    expect(page.locator("#pause.fresh")).to_be_visible()
    page.get_by_role("link", name="Queues").click()
    expect(page.get_by_label("every")).to_have_value("30")
    expect(page.locator("#pause.fresh")).to_be_visible()
    assert streams[-1].endswith("/queues?every=30")
    assert page.url.endswith("/queues")


def test_a_jobs_page_unfolds_its_arguments_and_leads_along_its_graph(
    page: Page, sync: Coordinator, database: Any, url: str
) -> None:
    @sync.task(name="load", backoff=3600, tags=[HOSTILE])
    def load(source: dict[str, Any], lines: int, token: str) -> None:
        job = current_job()
        assert job
        job.log("opens the file")
        job.log(f"read 1,200 lines of it {HOSTILE}")
        if job.attempt == 1 and source["fails"]:
            raise ConnectionError("the other side closed the connection")

    @sync.task(name="check")
    def check(what: str) -> None: ...

    source = {"file": {"path": {"of": HOSTILE}}, "fails": False}
    for lines in (900, 1100):
        load.enqueue(source=source, lines=lines, token="hunter2")
    loaded = load.enqueue(source={**source, "fails": True}, lines=10**30, token="hunter2")
    checks = [check.options(after=loaded).enqueue(what=what).id for what in ("rows", "sums")]
    apart(lambda: sync.run_worker(drain=True))
    page.goto(f"{url}/jobs/{loaded.id}")
    expect(page.locator("#pause.fresh")).to_be_visible()
    expect(page.locator(".timeline")).to_contain_text("closed the connection")
    expect(page.locator(".timeline .log")).to_contain_text("opens the file")
    expect(page.locator(".tree")).to_contain_text("1" + "0" * 30)
    expect(page.locator("#live")).not_to_contain_text("hunter2")
    folded = page.locator(".tree details:not([open])").first
    folded.locator("summary").first.click()
    expect(page.locator(".tree")).to_contain_text("<script>")
    photograph(page, "job-detail", full=True)
    assert page.locator("#live img, #live script").count() == 0
    page.locator(".graph").get_by_role("link").nth(2).click()
    page.wait_for_url(f"**/jobs/{checks[1]}")
    expect(page.locator(".why")).to_contain_text("Waits for jobs")


def test_paused_a_page_stands_still_until_it_goes_on(page: Page, database: Any) -> None:
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("#pause.fresh")).to_be_visible()
    page.keyboard.press("p")
    expect(page.locator("#pause")).to_have_text("Paused")
    enqueue(database, "brand_new")
    page.wait_for_timeout(2500)
    expect(page.locator("#live")).to_contain_text("There are no jobs.")
    page.keyboard.press("p")
    expect(page.locator("#live")).to_contain_text("brand_new")


def test_hostile_names_run_nothing_in_a_browser(
    page: Page, sync: Coordinator, database: Any, url: str
) -> None:
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    job = enqueue(database, HOSTILE, text=HOSTILE)[0]
    database.execute("SELECT pgsync.pause_queue(%s, %s)", [HOSTILE, HOSTILE])
    with sync.lock(HOSTILE, ttl=60, owner=HOSTILE):
        for path in ("", "jobs", f"jobs/{job}", "queues", "locks", "audit"):
            page.goto(f"{url}/{path}")
            expect(page.locator("#pause.fresh")).to_be_visible()
            assert page.locator("#live img, #live script").count() == 0
    assert said == []


def test_who_only_reads_finds_no_button(started: Browser, url: str, database: Any) -> None:
    enqueue(database)
    with opened(started) as page:
        sign_in(page, url, READ_TOKEN)
        expect(page.get_by_text("reads only")).to_be_visible()
        for path in ("jobs", "queues"):
            page.goto(f"{url}/{path}")
            expect(page.locator("#live tbody tr").first).to_be_visible()
            assert page.locator("#live button").count() == 0


def test_pages_work_without_javascript(started: Browser, url: str, database: Any) -> None:
    enqueue(database, "send")
    context = started.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, url)
    page.goto(f"{url}/jobs")
    page.get_by_label("Task").fill("other")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#live")).to_contain_text("No job fits.")
    page.goto(f"{url}/queues")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("is paused")
    context.close()
    eventually(lambda: database.execute("SELECT count(*) FROM pgsync.audit").fetchone() == (1,))
