"""The list of jobs and its filters, which stay in the URL."""

from __future__ import annotations

from typing import Any

import pytest

from pgsync import Coordinator
from tests.dashboard.conftest import Browser
from tests.dashboard.site import HOSTILE, enqueue


def test_filters_combine_and_stay_in_the_url(browser: Browser, database: Any) -> None:
    wanted = enqueue(database, "send", to="ada", nested={"city": "Bern"})[0]
    other = enqueue(database, "send", to="bob")[0]
    enqueue(database, "report")

    def shown(query: str) -> set[int]:
        text = browser.get(f"/jobs?{query}").text
        return {job for job in range(1, 10) if f'href="/jobs/{job}"' in text}

    assert shown("task=send") == {wanted, other}
    assert shown("task=send&arg=to%3Dada&state=available") == {wanted}
    assert shown("arg=nested.city%3DBern") == {wanted}
    assert shown("text=SEN") == {wanted, other}
    assert shown("state=running") == set()
    assert shown("task=send&since=1h") == {wanted, other}
    database.execute("UPDATE pgsync.job_ready SET created_at = now() - interval '2 h'")
    assert shown("task=send&since=1h") == set()
    assert shown("task=send&since=3h") == {wanted, other}
    assert shown("task=send&until=3h") == set()
    assert shown("task=send&until=1h") == {wanted, other}
    assert shown("task=send&since=2000-01-01&until=2000-01-02T08:00") == set()
    page = browser.get("/jobs?task=send&text=sen").text
    assert 'value="send"' in page
    assert "/jobs/confirm?task=send&amp;text=sen&amp;action=retry" in page


def test_tags_and_attempts_narrow_a_list_and_chips_take_them_away(
    browser: Browser, sync: Coordinator, database: Any
) -> None:
    @sync.task(name="send", max_attempts=3, backoff=3600)
    def send(n: int) -> None:
        raise RuntimeError("no route")

    tried = send.options(tags=["eu", HOSTILE]).enqueue(n=1).id
    sync.run_worker(drain=True)
    waiting = send.options(tags=["eu"]).enqueue(n=2).id
    enqueue(database, "other", **{"pgsync:tags": {"no": "list"}})
    text = browser.get("/jobs").text
    assert '<a class="tag" href="/jobs?tag=eu">eu</a>' in text
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text

    def shown(**query: Any) -> set[int]:
        text = browser.get("/jobs", params=query).text
        return {job for job in (tried, waiting) if f'href="/jobs/{job}"' in text}

    assert shown(tag="eu") == {tried, waiting}
    assert shown(tag=["eu", HOSTILE]) == {tried}
    assert shown(attempts=1) == {tried}
    assert shown(attempts=2) == set()
    page = browser.get("/jobs?tag=eu&tag=us&attempts=1&state=retryable").text
    without = "/jobs?state=retryable&amp;tag=eu&amp;attempts=1"
    assert f'href="{without}" aria-label="Without tag us"' in page
    assert '<input type="hidden" name="tag" value="us">' in page
    assert "pgsync:tags" not in page


def test_a_filtered_list_says_how_many_fit_and_goes_on_behind_what_it_shows(
    browser: Browser, database: Any
) -> None:
    jobs = enqueue(database, "send", 70)
    enqueue(database, "other", 3)
    text = browser.get("/jobs?task=send").text
    assert "70 fit, 50 shown" in text
    assert f"before={jobs[20]}" in text
    rest = browser.get(f"/jobs?task=send&before={jobs[20]}").text
    assert f"20 shown, newest first, from before job {jobs[20]} on" in rest
    assert 'class="next"' not in rest


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("state=strange", "no state of a job"),
        ("arg=nothing", "key=value"),
        ("arg=password%3Dx", "hidden"),
        ("since=soon", "neither a moment"),
        ("until=9999-12-31T23:59:59%2B99:00", "neither a moment"),
        ("attempts=-1", "attempts must be a number"),
        ("before=x", "before must be a number"),
        ("text=%00", "characters"),
        (f"text={'x' * 300}", "characters"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_words(
    browser: Browser, query: str, message: str
) -> None:
    answer = browser.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert message in answer.text


def test_pages_of_jobs_go_on_from_the_last(browser: Browser, database: Any) -> None:
    jobs = enqueue(database, "send", 120)
    seen: list[int] = []
    path = "/jobs?state=available"
    while path:
        text = browser.get(path).text
        seen += [int(part.split('"')[0]) for part in text.split('name="id" value="')[1:]]
        following = text.split('class="next" href="')
        path = following[1].split('"')[0].replace("&amp;", "&") if len(following) > 1 else ""
    assert seen == sorted(jobs, reverse=True)
