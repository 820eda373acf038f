"""A round from the console: it starts, says how far it is, can be cancelled and resumed; the learner is small_learner.py."""

import sys
import time
from pathlib import Path

import pytest

from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from storage.campaign import Campaign
from storage.contract.jobs import work_dir
from storage.records import Annotator, Message, Prompt, User
from tests.storage.builders import START, judge

SMALL_LEARNER = Path(__file__).parent.parent / "annotate_app" / "small_learner.py"
pytestmark = pytest.mark.browser


@pytest.fixture
def expect():
    expect = pytest.importorskip("playwright.sync_api").expect
    expect.set_options(timeout=15_000)  # busy machines
    return expect


@pytest.fixture
def context(store, tmp_path):
    """An app whose base policy has answered, with 20 judgments; its learner waits for a file ``go``."""
    question = (Message(role="user", content="How do I sharpen a knife?"),)
    splits = ["train"] * 20 + ["heldout"]
    store.add_prompts(
        [Prompt(id=f"p{n}", messages=question, split=s, source="test", created_at=START) for n, s in enumerate(splits)]
    )
    store.add_annotator(Annotator(id="ann0", handle="Annotator 0", kind="human", created_at=START))
    store.add_user(User(id="rosa", name="Rosa", role="researcher", annotator_id="ann0", created_at=START))
    command = [sys.executable, str(SMALL_LEARNER), "slow"]
    rounds = RoundService(store, tmp_path, model="someone/small-model", command=command)
    rounds.ensure_started()
    let_go(tmp_path, "0001-generate")
    assert rounds.wait(1, 30).status == "done"
    for _ in range(20):
        judge(store, "ann0")
    yield AppContext(store=store, rounds=rounds, data_dir=tmp_path, session_secret="only for tests")
    rounds.close(stop_jobs=True)


def let_go(data, job):
    deadline = time.monotonic() + 20
    while not work_dir(data / "jobs" / job).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (work_dir(data / "jobs" / job) / "go").touch()


def test_a_round_is_started_cancelled_resumed_and_read(open_page, context, expect):
    page = open_page("rosa")
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="Round").click()
    now, cancel, resume = page.locator("#progress"), page.locator("#cancel-round"), page.locator("#resume-round")
    expect(now).to_contain_text("Generate 1 finished")
    assert cancel.is_hidden() and resume.is_hidden()
    page.get_by_label("by hand").check()
    page.locator("#run-round").click()
    expect(now).to_contain_text("Round 2 runs, stage 1 of 7: Judgments, 10%", timeout=30_000)
    expect(page.get_by_role("progressbar", name="Round 2")).to_be_visible()
    expect(page.locator("#run-round")).to_be_disabled()

    page.get_by_role("tab", name="Overview").click()
    expect(page.get_by_text("Labelling goes on while it runs")).to_be_visible()
    page.get_by_role("tab", name="Round").click()
    cancel.click()
    expect(now).to_contain_text("Round 2 cancelled", timeout=30_000)
    expect(page.locator("#run-round")).to_be_enabled(timeout=15_000)

    resume.click()
    expect(now).to_contain_text("Round 2 runs", timeout=30_000)
    let_go(context.data_dir, "0002-round")
    expect(now).to_contain_text("Round 2 finished", timeout=30_000)
    page.get_by_role("tab", name="Reports").click()
    expect(page.get_by_text("Promote it.")).to_be_visible()


def test_a_round_without_enough_judgments_says_how_many_it_needs(open_page, context, expect):
    page = open_page("rosa")
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="Round").click()
    for judgment in context.store.list_judgments():
        context.store.withdraw(judgment.id, annotator_id="ann0")
    page.locator("#run-round").click()
    expect(page.locator("#problem")).to_contain_text("There are 0 decided judgments; a round needs 20.", timeout=30_000)
    assert len(context.store.list_rounds()) == 1


def test_the_form_begins_with_what_the_campaign_wants_of_a_round(open_page, context, expect):
    wanted = {"update": {"rule": "omd", "step_size": 3.0, "lora_rank": 4}, "promote": "manual", "pairs_per_prompt": 2}
    context.store.set_campaign(Campaign(round=wanted), actor="rosa")
    page = open_page("rosa")
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="Round").click()
    expect(page.get_by_label("by hand")).to_be_checked()
    page.get_by_text("All settings").click()
    expect(page.get_by_label("Step size")).to_have_value("3.0")
    page.get_by_label("Epochs").fill("2")
    page.locator("#run-round").click()
    expect(page.locator("#progress")).to_contain_text("Round 2 runs", timeout=30_000)
    settings = context.store.get_round(2).settings
    assert {name: settings["update"][name] for name in ("rule", "step_size", "lora_rank", "epochs")} == {
        "rule": "omd", "step_size": 3.0, "lora_rank": 4, "epochs": 2,
    }  # fmt: skip
    assert (settings["options"]["promote"], settings["options"]["pairs_per_prompt"]) == ("manual", 2)
    assert settings["options"]["overlap"] is None  # as the campaign says
