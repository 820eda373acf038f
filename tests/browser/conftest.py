"""A real browser against a real server. Skipped where no Chromium is found; NASHLOOP_CHROMIUM names one."""

import os
import shutil
from contextlib import contextmanager

import pytest

from annotate_app.auth import issue_signin_link
from annotate_app.server import serve_in_background
from annotate_app.web import build_app

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: scripts/setup --test")
    path = os.environ.get("NASHLOOP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium found: install one or set NASHLOOP_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def url(context):
    """Address of the whole app around ``context``."""
    with serve_in_background(build_app(context)) as address:
        yield address


@pytest.fixture
def open_page(chromium, url, context):
    """Opens a page signed in as a user; at the end, nothing may have been refused, thrown or asked of another host."""
    with _Visits(chromium, url, context).watched() as visits:
        yield visits


class _Visits:
    def __init__(self, chromium, url, context):
        self.chromium, self.url, self.context = chromium, url, context
        self.troubles, self.opened = [], []
        # Parts of console messages that a test provokes; Gradio says these when a page goes away during one of its polls.
        self.expected = ("AbortError: signal is aborted", "Connection errored out")

    def __call__(self, user_id="ada", **options):
        window = self.chromium.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        self.opened.append(window)
        page = window.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("console", lambda message: message.type == "error" and self.troubles.append(message.text))
        page.on("request", lambda r: r.url.startswith((self.url, "data:")) or self.troubles.append(f"foreign: {r.url}"))
        page.goto(self.url + issue_signin_link(self.context.store, self.context.store.get_user(user_id)))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(self.url + "/")
        return page

    @contextmanager
    def watched(self):
        try:
            yield self
        finally:
            for window in self.opened:
                window.close()
        unexpected = [t for t in self.troubles if not any(part in t for part in self.expected)]
        assert unexpected == []
