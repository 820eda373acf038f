"""Takes the pictures of the annotators' guide: the labelling page in each of its states, on a small campaign made for it.

    python scripts/take_labelling_screenshots.py [--out docs/images] [NAME ...]

Needs the test dependencies and a Chromium (NASHLOOP_CHROMIUM, or one on the PATH).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from annotate_app.auth import issue_signin_link  # noqa: E402
from annotate_app.bootstrap import BUILT_IN, model_location  # noqa: E402
from annotate_app.context import AppContext  # noqa: E402
from annotate_app.live import LiveService  # noqa: E402
from annotate_app.policy_server import LocalServer  # noqa: E402
from annotate_app.rounds import RoundService  # noqa: E402
from annotate_app.server import serve_in_background  # noqa: E402
from annotate_app.web import build_app  # noqa: E402
from storage.campaign import Campaign  # noqa: E402
from storage.duckdb_store import open_store  # noqa: E402
from storage.records import Message, User  # noqa: E402
from storage.store import Store  # noqa: E402
from tests.storage.builders import START, fill, make_policy, make_prompt, make_response, make_task  # noqa: E402

ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LOOP = (
    "Use a dictionary:\n\n```python\nseen = {}\nfor word in words:\n    seen[word] = seen.get(word, 0) + 1\n```\n\n$O(n)$ time."
)
COUNTER = "Use `collections.Counter`:\n\n```python\nfrom collections import Counter\nseen = Counter(words)\n```\n\n$O(n)$ time."
RICE = (
    "Rinse the rice, then boil it for ten minutes with the lid on.",
    "Rinse the rice, then boil it for thirty minutes without a lid.",
)
RANKED = ("Walk to the sea.", "Read a book in the shade.", "Swim before noon.", "Sleep until evening.")
FULL = Campaign(
    aspects=("helpful", "correct", "safe"),
    reason_tags=("too long", "wrong fact", "off topic"),
    min_rationale=20,
    ask_strength=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("names", nargs="*", help="only these pictures, such as live")
    asked = parser.parse_args()
    out, wanted = asked.out, asked.names
    out.mkdir(parents=True, exist_ok=True)
    for name, campaign, steps, options in PICTURES:
        if wanted and name not in wanted:
            continue
        with labelling(campaign, options) as page:
            steps(page)
            page.wait_for_timeout(500)
            page.screenshot(path=out / f"label-{name}.png")


def keys(*names: str) -> Callable[[Page], None]:
    """Presses one key after the other."""

    def press(page: Page) -> None:
        for name in names:
            page.keyboard.press(name)
            page.wait_for_timeout(250)

    return press


def everything(page: Page) -> None:
    page.get_by_role("button", name="correct: B is better").click()
    page.get_by_role("button", name="off topic").click()
    page.locator("#text-a p").first.select_text()
    page.keyboard.press("m")
    page.wait_for_timeout(6_500)  # the line that says so goes away


def history(page: Page) -> None:
    keys("a", "t", "b")(page)
    page.locator("#saving:empty").wait_for(state="attached")
    page.keyboard.press("h")
    page.locator("#past summary").first.click()


def feedback(page: Page) -> None:
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    page.keyboard.press("t")
    page.locator("#feedback").wait_for()


def live(page: Page) -> None:
    page.keyboard.press("p")
    page.locator('.page[data-state="writing"]').wait_for()
    page.keyboard.type("How do I keep bread fresh?")
    page.keyboard.press("Control+Enter")
    page.locator('.page[data-state="pair"]').wait_for()


def live_next(page: Page) -> None:
    live(page)
    keys("a")(page)
    page.locator('.page[data-state="writing"]').wait_for()
    page.keyboard.type("And in summer?")


LIVE = {"live": True}
NARROW = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
PICTURES: tuple[tuple[str, Campaign, Callable[[Page], None], dict], ...] = (
    ("pair", Campaign(), keys(), {}),
    ("phone", Campaign(), keys(), NARROW),
    ("help", Campaign(), keys("?"), {}),
    ("differences", Campaign(), keys("a", "d"), {}),
    ("everything", FULL, everything, {}),
    ("skip", Campaign(), keys("s"), {}),
    ("edit", Campaign(), keys("e"), {}),
    ("history", Campaign(), history, {}),
    ("training", Campaign(pass_mark=0.8, num_training=2), feedback, {}),
    ("ranking", Campaign(), keys("a", "a", "c", "a", "=", "d"), {}),
    ("live", Campaign(), live, LIVE),
    ("live-next", Campaign(), live_next, LIVE),
)


@contextmanager
def labelling(campaign: Campaign, how: dict[str, Any]) -> Iterator[Page]:
    """The page of an annotator with this campaign, on the first pair."""
    options: dict[str, Any] = dict(how)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        store = open_store()
        add_pairs(store, training=campaign.pass_mark is not None)
        store.set_campaign(campaign, actor="researcher")
        rounds = RoundService(store, Path(scratch), model="none")
        context = AppContext(store=store, rounds=rounds, data_dir=Path(scratch), session_secret="pictures")
        if options.pop("live", False):
            store.add_policy(make_policy(1, id="built-in", base_model=BUILT_IN))
            store.append_event(actor="pictures", kind="policy.promoted", subject="built-in")
            source = LocalServer(model_location(BUILT_IN), log=Path(scratch) / "policy-server.log", device="cpu")
            service = LiveService(store, Path(scratch), source)
            context = replace(context, live=service)
            stack.callback(service.close)
            service.start()
            while service.problem is not None:
                time.sleep(0.2)
        with serve_in_background(build_app(context)) as url, sync_playwright() as playwright:
            path = os.environ.get("NASHLOOP_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=path, args=ARGS)
            window: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}} | options
            page = browser.new_page(**window)
            user = store.get_user("ada")
            assert user is not None
            page.goto(url + issue_signin_link(store, user))
            page.get_by_role("button").first.click()
            page.locator('.page[data-state="pair"]').wait_for()
            page.wait_for_timeout(600)
            if not campaign.pass_mark and not options:
                page.keyboard.press("g")  # without the guidelines, there is more to see
            yield page
            browser.close()
        rounds.close()
        store.close()


def add_pairs(store: Store, *, training: bool) -> None:
    fill(store)
    store.add_user(User(id="ada", name="Ada", role="annotator", annotator_id="ann0", created_at=START))
    add(store, "count", "How do I count how often each word occurs in a list, in Python?", (LOOP, COUNTER), priority=9.0)
    add(store, "rice", "How do I cook rice?", RICE, priority=8.0)
    add(store, "holiday", "What shall I do on my day by the sea?", RANKED, priority=7.0)
    if training:
        add(store, "gold", "What is the capital of France?", ("Paris.", "Lyon."), purpose="gold", wanted=100)
        add(store, "gold2", "How many legs has a spider?", ("Eight.", "Six."), purpose="gold", wanted=100)
        for name in ("gold", "gold2"):
            data = {"verdict": "a", "explanation": "Only one of them is right, and a wrong fact weighs more than style."}
            store.append_event(actor="researcher", kind="task.answer", subject=name, data=data)


def add(store: Store, name: str, question: str, texts: tuple[str, ...], **task) -> None:
    store.add_prompts([replace(make_prompt(name), messages=(Message(role="user", content=question),))])
    store.add_responses([make_response(f"{name}-{k}", name, text=text) for k, text in enumerate(texts)])
    more = tuple(f"{name}-{k}" for k in range(2, len(texts)))
    store.add_tasks([make_task(name, name, f"{name}-0", f"{name}-1", more_response_ids=more, **task)])


if __name__ == "__main__":
    main()
