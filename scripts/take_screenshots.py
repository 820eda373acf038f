"""Takes the pictures of the README and the guide: a simulated run, the real app on it, a browser on both pages.

    python scripts/take_screenshots.py [--data DIR] [--out docs/images]

--data names a directory that `nashloop simulate --data DIR` left (otherwise one is made, which takes a few minutes).
Needs the test dependencies and a Chromium (NASHLOOP_CHROMIUM, or one on the PATH).
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
TABS = ("Overview", "Round", "Reports", "Policies", "Data", "People")
BROWSED = ("pairs", "annotators", "lineage", "campaign")
GUIDE = (("light", 1440, ("Overview", "Round", "Reports")), ("dark", 390, ("Overview",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--all", action="store_true", help="every tab, light and dark, wide and 390 px, to look at")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or Path(scratch) / "data"
        if args.data is None:
            nashloop("simulate", "--rounds", "2", "--labels", "400", "--data", str(data))
        app, link = start_app(data, Path(scratch) / "up.log")
        try:
            with sync_playwright() as playwright:
                chromium = os.environ.get("NASHLOOP_CHROMIUM") or shutil.which("chromium")
                browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
                state = sign_in(browser, link)
                site = link.split("/sign-in")[0]
                every = [(scheme, width, TABS) for scheme in ("light", "dark") for width in (1440, 390)]
                for scheme, width, tabs in every if args.all else GUIDE:
                    shoot(browser, state, site, args.out, scheme, width, tabs)
        finally:
            app.terminate()
            app.wait(30)


def nashloop(*arguments: str) -> str:
    command = [sys.executable, "-m", "annotate_app.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def start_app(data: Path, log: Path) -> tuple[subprocess.Popen, str]:
    """The app on a free port, and a sign-in link for the researcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "annotate_app.cli", "up", "--data", str(data), "--port", str(port)]
    app = subprocess.Popen(command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT)
    while app.poll() is None and "is ready" not in log.read_text():
        time.sleep(0.2)
    if app.poll() is not None:
        raise SystemExit(f"the app did not start:\n{log.read_text()}")
    invited = nashloop("users", "invite", "researcher", "--data", str(data))
    return app, re.findall(r"http://\S+/sign-in\?token=\S+", invited)[0]


def sign_in(browser: Browser, link: str):
    context = browser.new_context()
    page = context.new_page()
    page.goto(link)
    page.get_by_role("button").first.click()
    page.wait_for_load_state()
    return context.storage_state()


def shoot(browser: Browser, state, site: str, out: Path, scheme: str, width: int, tabs: tuple[str, ...]) -> None:
    context = browser.new_context(storage_state=state, color_scheme=scheme, viewport={"width": width, "height": 900})  # pyright: ignore
    page = context.new_page()
    suffix = "" if (scheme, width) == ("light", 1440) else f"-{scheme}-{width}"
    page.goto(site)
    page.locator("#text-a p, #text-a li").first.wait_for(timeout=60_000)
    settle(page)
    page.screenshot(path=out / f"labelling{suffix}.png")
    page.goto(f"{site}/console/")
    page.get_by_role("tab", name="Overview").wait_for(timeout=60_000)
    for name in tabs:
        open_tab(page, name)
        settle(page)
        page.screenshot(path=out / f"console-{name.lower()}{suffix}.png", full_page=tabs is TABS)
    for name in BROWSED if tabs is TABS or not suffix else ():
        page.goto(f"{site}/console/{name}")
        page.screenshot(path=out / f"console-{name}{suffix}.png", full_page=tabs is TABS)
    context.close()


def open_tab(page: Page, name: str) -> None:
    """Tabs that a narrow page has no room for are listed behind its "…" button."""
    tab = page.get_by_role("tab", name=name)
    if tab.is_visible():
        return tab.click()
    page.locator(".overflow-menu > button").first.click()
    page.locator(".overflow-dropdown button", has_text=name).first.click()


def settle(page: Page) -> None:
    """Plots draw after the page is idle."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    main()
