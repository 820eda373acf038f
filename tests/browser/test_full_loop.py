"""The product in one test: sign in, label with mouse and keyboard, run a round, promote, and label the improved policy."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parent.parent.parent
NUM_LABELS = 30
pytestmark = pytest.mark.browser


@pytest.fixture
def app(tmp_path):
    """``nashloop up`` as a person starts it, on a new data directory; gives (sign-in link, data directory)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, log = tmp_path / "data", tmp_path / "up.log"
    command = [sys.executable, "-m", "annotate_app.cli", "up", "--data", str(data), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        link = wait_for(lambda: re.search(r"http://\S+/sign-in\?token=\S+", log.read_text()), "a sign-in link", log)
        yield link.group(), data
    finally:
        process.terminate()
        process.wait(30)


def test_label_run_a_round_promote_and_label_the_new_policy(app, chromium):
    link, data = app
    with chromium.new_context(viewport={"width": 1280, "height": 800}) as window:
        page = window.new_page()
        page.set_default_timeout(60_000)
        page.goto(link)
        page.get_by_role("button").first.click()
        page.goto(link.split("/sign-in")[0] + "/")
        label_pairs(page, NUM_LABELS)
        api = api_client(data)
        assert api.get("/api/v1/stats").json()["judgments"] == NUM_LABELS
        assert served_number(api) == 0

        run_a_round(page, link)
        promote_the_new_policy(page)
        assert served_number(api) == 1

        page.goto(link.split("/sign-in")[0] + "/")
        label_pairs(page, 1)
        newest = json.loads(api.get("/api/v1/exports/raw").text.splitlines()[-1])
        policies = {policy["number"]: policy["id"] for policy in api.get("/api/v1/policies").json()["policies"]}
        assert policies[1] in json.dumps(newest) and policies[0] not in json.dumps(newest)


def label_pairs(page: Page, count: int) -> None:
    """Shorter is better, by turns with the mouse and with a key, waiting for the next pair each time."""
    for number in range(count):
        expect(page.locator("#text-a")).not_to_be_empty(timeout=120_000)
        lease = page.locator("#pair").get_attribute("data-lease")
        a, b = (len(page.locator(f"#text-{side}").inner_text()) for side in "ab")
        verdict = "a" if a <= b else "b"
        if number % 2:
            page.locator(f"button[data-verdict={verdict}]").click()
        else:
            page.keyboard.press(verdict)
        expect(page.locator("#pair")).not_to_have_attribute("data-lease", str(lease))
    expect(page.locator("#saving")).to_have_text("")


def run_a_round(page: Page, link: str) -> None:
    page.goto(link.split("/sign-in")[0] + "/console/")
    page.get_by_role("tab", name="Round").click()
    page.get_by_label("by hand").check()
    page.locator("#run-round").click()
    expect(page.locator("#progress")).to_contain_text("stage", timeout=60_000)
    expect(page.locator("#progress")).to_contain_text("finished", timeout=400_000)
    page.get_by_role("tab", name="Reports").click()
    expect(page.get_by_text("Is it safe to promote?")).to_be_visible()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()


def promote_the_new_policy(page: Page) -> None:
    page.get_by_role("tab", name="Policies").click()
    expect(page.locator("#policies")).to_contain_text("policy 1")
    page.get_by_label("Reason").fill("it says less")
    page.locator("#promote").click()
    expect(page.locator("#policies")).to_contain_text("retired")


def api_client(data: Path) -> httpx.Client:
    server = json.loads((data / "server.json").read_text())
    return httpx.Client(base_url=server["url"], headers={"Authorization": f"Bearer {server['token']}"}, timeout=60)


def served_number(api: httpx.Client) -> int:
    [serving] = [policy for policy in api.get("/api/v1/policies").json()["policies"] if policy["status"] == "serving"]
    return serving["number"]


def wait_for(condition, what: str, log: Path, timeout_s: float = 120):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not appear in {timeout_s} s:\n{log.read_text()}")
