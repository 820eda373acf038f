"""The console in a real Chromium against the real app; rounds are walked through in test_full_loop.py."""

import json
import re

import pytest

from storage.records import JudgmentInput

pytestmark = pytest.mark.browser


@pytest.fixture
def expect():
    expect = pytest.importorskip("playwright.sync_api").expect
    expect.set_options(timeout=15_000)  # busy machines
    return expect


@pytest.fixture
def pair(context):
    """A pair leased to Ada, before any other page can take the three there are."""
    [lease] = context.store.lease("ann0", 1)
    return lease


@pytest.fixture
def console(pair, open_page):
    """The console, open for Root, an admin: a function that opens a tab and gives the page."""
    page = open_page("root")
    page.goto(open_page.url + "/console/")

    def open_tab(name):
        page.get_by_role("tab", name=name).click()
        return page

    return open_tab


def test_the_overview_counts_by_itself(console, pair, context, expect):
    page = console("Overview")
    expect(page.locator(".cards li").nth(0)).to_contain_text(re.compile(r"^\s*0\s*judgments"))
    expect(page.get_by_text("Invite annotators in the tab People")).to_be_visible()
    context.store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0")
    expect(page.locator(".cards li").nth(0)).to_contain_text(re.compile(r"^\s*1\s*judgments"), timeout=15_000)
    expect(page.get_by_role("row", name=re.compile("Annotator 0 now"))).to_be_visible()
    expect(page.get_by_role("img", name="Labels per hour")).to_be_visible()


def test_what_is_open_on_the_overview_stays_open_when_it_counts_on(console, pair, context, expect):
    page = console("Overview")
    context.store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0")
    numbers = page.locator("#overview-host details").first
    numbers.locator("summary").click()
    [second] = context.store.lease("ann0", 1)
    context.store.submit(JudgmentInput(lease_id=second.lease_id, verdict="b"), annotator_id="ann0")
    expect(page.locator(".cards li").nth(0)).to_contain_text(re.compile(r"^\s*2\s*judgments"), timeout=15_000)
    expect(numbers.get_by_role("table")).to_be_visible()
    expect(numbers.locator("summary")).to_be_focused()


def test_a_wrong_setting_is_named_and_nothing_starts(console, context, expect):
    page = console("Round")
    page.get_by_text("All settings").click()
    page.get_by_label("Step size").fill("fast")
    page.locator("#run-round").click()
    expect(page.locator("#problem")).to_contain_text("update.step_size = 'fast' is refused", timeout=15_000)
    page.get_by_label("Job").click()
    page.get_by_role("option", name="Evaluate").click()
    expect(page.locator("#run-round")).to_have_text("Run evaluate", timeout=15_000)
    page.get_by_label("Step size").fill("auto")
    page.locator("#run-round").click()
    expect(page.locator("#problem")).not_to_contain_text("step_size", timeout=15_000)
    expect(page.locator("#problem")).to_be_visible()  # the store of this test has no model directory to start from
    assert context.store.list_rounds() == []


def test_an_invited_person_can_sign_in_until_disabled(console, open_page, chromium, context, expect):
    page = console("People")
    page.get_by_label("Name").fill("Grace")
    page.locator("#invite").click()
    link = page.locator("#invite-link").locator("input, textarea")
    expect(link).to_have_value(re.compile("/sign-in"), timeout=15_000)
    expect(page.locator("#people")).to_contain_text("Grace")
    theirs = chromium.new_page()
    theirs.goto(link.input_value())
    theirs.get_by_role("button", name="Sign in").click()
    theirs.wait_for_url(open_page.url + "/")
    page.get_by_label("Person").click()
    page.get_by_role("option", name="Grace").click()
    page.locator("#disable").click()
    expect(page.locator("#people")).to_contain_text("disabled", timeout=15_000)
    acts = {event.kind for event in context.store.list_events() if event.actor == "root"}
    assert {"user.invited", "user.disabled"} <= acts
    theirs.goto(open_page.url + "/")
    assert theirs.url.endswith("/sign-in")
    theirs.close()


def test_a_researcher_sees_who_there_is_and_lets_nobody_in(pair, open_page, context, expect):
    page = open_page("rosa")
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="People").click()
    expect(page.locator("#people")).to_contain_text("Ada")
    page.get_by_label("Name").fill("Mallory")
    page.locator("#invite").click()
    expect(page.locator("#problem")).to_contain_text("Only an admin invites people", timeout=15_000)
    assert "Mallory" not in {user.name for user in context.store.list_users()}


def test_an_export_downloads_in_the_chosen_format(console, pair, context, expect):
    context.store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="b"), annotator_id="ann0")
    page = console("Data")
    page.get_by_label("Format").click()
    page.get_by_role("option", name="TRL preference, explicit prompt").click()
    expect(page.locator("a:has(#download-export), a#download-export")).to_have_attribute(
        "href", re.compile("trl"), timeout=15_000
    )
    with page.expect_download() as download:
        page.locator("#download-export").click()
    [row] = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert row["chosen"][-1]["content"] == pair.response_b
    assert row["rejected"][-1]["content"] == pair.response_a


def test_an_import_says_what_was_added_or_which_row_is_bad(console, context, expect, tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"prompt": "How do I fold a map?"}\n{"prompt": "Why is rain wet?"}\n')
    bad.write_text('{"prompt": "fine"}\n{"prompt": 7}\n')
    before = len(context.store.list_prompts())
    page = console("Data")
    page.locator("#import-file").click()
    expect(page.locator("#problem")).to_contain_text("No file is chosen", timeout=15_000)
    files = page.locator("input[type=file]")
    files.set_input_files(good)
    expect(page.get_by_role("link", name="⇣")).to_have_attribute("href", re.compile("good"), timeout=15_000)  # uploaded
    page.locator("#import-file").click()
    expect(page.locator("#imported")).to_contain_text("2 prompts added", timeout=15_000)
    assert len(context.store.list_prompts()) == before + 2
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    files.set_input_files(bad)
    expect(page.get_by_role("link", name="⇣")).to_have_attribute("href", re.compile("bad"), timeout=15_000)  # uploaded
    page.locator("#import-file").click()
    expect(page.locator("#problem")).to_contain_text("bad.jsonl", timeout=15_000)
    assert len(context.store.list_prompts()) == before + 2
