"""How fast the labelling page is, in Chromium on the real app with a DuckDB file and durable commits.

    python scripts/bench_labelling_page.py [--labels 200] [--bytes 25000] [--busy]

Prints one JSON object: milliseconds from a verdict key to the frame that shows the next pair (p50, p95), bytes that opening
the page moves, and when something was painted first. --busy runs a simulation with rounds beside it. Needs the test dependencies.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from annotate_app.auth import issue_signin_link  # noqa: E402
from annotate_app.context import AppContext  # noqa: E402
from annotate_app.rounds import RoundService  # noqa: E402
from annotate_app.server import serve_in_background  # noqa: E402
from annotate_app.web import build_app  # noqa: E402
from storage.duckdb_store import open_store  # noqa: E402
from storage.ids import new_id  # noqa: E402
from storage.records import Annotator, Message, Policy, Prompt, Response, Task, User  # noqa: E402
from storage.store import Store  # noqa: E402

ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SENTENCE = "A sentence of a **long** answer that says something, with `code` and a list to come. "
# From the key to the frame after the one in which the next pair stands: what a person waits for.
WATCH = """() => {
  const root = document.getElementById("island-host").shadowRoot;
  window.waits = [];
  addEventListener("keydown", (event) => {
    const began = event.timeStamp;
    const lease = root.getElementById("pair").dataset.lease;
    const look = () => root.getElementById("pair").dataset.lease === lease
      ? requestAnimationFrame(look)
      : requestAnimationFrame(() => window.waits.push(performance.now() - began));
    requestAnimationFrame(look);
  }, true);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=25_000, help="of each response")
    parser.add_argument("--busy", action="store_true", help="with a simulation beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        busy = start_simulation() if args.busy else None
        try:
            print(json.dumps(measure(Path(scratch), args.labels, args.bytes) | {"busy": args.busy}, indent=2))
        finally:
            if busy:
                busy.terminate()


def start_simulation() -> subprocess.Popen:
    command = [sys.executable, "-m", "annotate_app.cli", "simulate", "--rounds", "50", "--labels", "100", "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(directory: Path, labels: int, num_bytes: int) -> dict[str, object]:
    store = open_store(directory / "nashloop.duckdb")
    user = fill(store, labels + 5, num_bytes)
    rounds = RoundService(store, directory, model="none")
    context = AppContext(store=store, rounds=rounds, data_dir=directory, session_secret="bench")
    with serve_in_background(build_app(context)) as url, sync_playwright() as playwright:
        path = os.environ.get("NASHLOOP_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url + issue_signin_link(store, user))
        page.get_by_role("button").first.click()
        shown(page)
        weight = page.evaluate("performance.getEntriesByType('resource').reduce((sum, entry) => sum + entry.transferSize, 0)")
        paints = page.evaluate("performance.getEntriesByType('paint').map(({ name, startTime }) => [name, startTime])")
        waits = press(page, labels)
        browser.close()
    rounds.close()
    stored = store.count_judgments()
    store.close()
    cuts = quantiles(waits, n=100)
    return {
        "labels": labels,
        "stored": stored,
        "response_bytes": num_bytes,
        "key_to_painted_ms": {"p50": round(cuts[49], 1), "p95": round(cuts[94], 1), "max": round(max(waits), 1)},
        "page_bytes": weight,
        "first_paint_ms": {name: round(at) for name, at in paints},
        "load_average": os.getloadavg()[0],
    }


def press(page: Page, labels: int) -> list[float]:
    page.evaluate(WATCH)
    for n in range(labels):
        lease = shown(page)
        page.keyboard.press("abtx"[n % 4])
        page.locator(f'#pair:not([data-lease="{lease}"])').wait_for()
    page.locator("#saving:empty").wait_for(state="attached")
    return page.evaluate("window.waits")


def shown(page: Page) -> str:
    page.locator('.page[data-state="pair"]').wait_for()
    return page.locator("#pair").get_attribute("data-lease") or ""


def fill(store: Store, pairs: int, num_bytes: int) -> User:
    """Pairs of long responses, and somebody to judge them."""
    now = datetime.now(UTC)
    store.add_policy(Policy(
        id=new_id(), number=0, base_model="none", base_revision=None, adapter_path=None, adapter_sha256=None, parent_id=None,
        round_id=None, created_at=now,
    ))  # fmt: skip
    policy = store.list_policies()[0].id
    text = SENTENCE * (num_bytes // len(SENTENCE) + 1)
    for n in range(pairs):
        prompt = Prompt(
            id=new_id(), messages=(Message(role="user", content=f"Question {n}?"),), split="train", source="bench", created_at=now
        )
        responses = [
            Response(
                id=new_id(), prompt_id=prompt.id, policy_id=policy, text=f"Answer {n}.{k}\n\n{text[:num_bytes]}", token_ids=None,
                sum_logp=None, finish_reason="stop", sampler={}, seed=None, role="candidate", created_at=now,
            )
            for k in (1, 2)
        ]  # fmt: skip
        task = Task(
            id=new_id(), prompt_id=prompt.id, response_1_id=responses[0].id, response_2_id=responses[1].id,
            selection_rule="random", selection_score=None, selection_prob=1.0, created_at=now,
        )  # fmt: skip
        store.add_batch(prompts=[prompt], responses=responses, tasks=[task])
    store.add_annotator(Annotator(id="bench", handle="bench", kind="human", created_at=now))
    store.add_user(User(id="bench", name="bench", role="annotator", annotator_id="bench", created_at=now))
    user = store.get_user("bench")
    assert user is not None
    return user


if __name__ == "__main__":
    main()
