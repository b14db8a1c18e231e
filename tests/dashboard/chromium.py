"""Chromium, driven through Playwright: Debian's, as the tests download no browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.dashboard.conftest import TOKEN

__all__ = ["apart", "chromium", "opened", "page", "photograph", "sign_in", "started"]

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a new profile; without one the test is skipped, and fails in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, *, dark: bool = False, width: int = 1280) -> Iterator[Page]:
    """A page whose console must stay free of errors."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
        device_scale_factor=1,
    )
    page = context.new_page()
    page.set_default_timeout(15_000)
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert errors == [], errors


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


def photograph(page: Page, name: str, *, full: bool = False) -> None:
    """Keep a picture of the page (or of all of it), where PGSYNC_SCREENSHOTS names a folder."""
    if folder := os.environ.get("PGSYNC_SCREENSHOTS"):
        page.wait_for_timeout(200)
        path = Path(folder, f"{name.replace('/', '-')}.png")
        page.screenshot(path=path, full_page=full)
