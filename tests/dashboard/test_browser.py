"""The dashboard in Chromium: what an operator does there, with a console free of errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pgsync import Coordinator, current_job
from pgsync.dashboard.pages import PAGES
from tests.dashboard.chromium import chromium, opened
from tests.dashboard.conftest import READ_TOKEN, TOKEN
from tests.dashboard.site import HOSTILE, busy_site, enqueue
from tests.eventually import eventually

LISTS = [page for page in PAGES if page.key]


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(started: Browser, url: str) -> Iterator[Page]:
    """A page of the dashboard in which somebody has signed in."""
    with opened(started) as page:
        sign_in(page, url)
        yield page


def sign_in(page: Page, url: str, token: str = TOKEN) -> None:
    page.goto(url)
    page.get_by_label("Token").fill(token)
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def apart(function: Callable[[], Any]) -> Any:
    """Run what needs an event loop in another thread: Playwright's runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result(60)


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


def photograph(page: Page, name: str, *, full: bool = False) -> None:
    """Keep a picture of the page (or of all of it), where PGSYNC_SCREENSHOTS names a folder."""
    if folder := os.environ.get("PGSYNC_SCREENSHOTS"):
        page.wait_for_timeout(200)
        path = Path(folder, f"{name.replace('/', '-')}.png")
        page.screenshot(path=path, full_page=full)


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
