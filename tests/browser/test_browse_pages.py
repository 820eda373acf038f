"""Researchers' pages of judgments, annotators, policies and the campaign, in a real Chromium."""

import pytest

from storage.records import JudgmentInput
from tests.browser.axe import assert_accessible
from tests.storage.builders import make_prompt, make_response, make_task

pytestmark = pytest.mark.browser

HOSTILE = """<script>document.title = 'owned'</script><img src="http://evil.example/x.png" onerror="document.title='owned'">
<div style="position:fixed;inset:0;z-index:99">cover</div> [run](javascript:document.title='owned') \u202egnp.exe\u202c"""
LOOKS = [("light", 1440), ("dark", 390)]


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def judged(context):
    store = context.store
    store.add_prompts([make_prompt("evil", text=f"needle {HOSTILE}")])
    store.add_responses([make_response(f"evil-{k}", "evil", text=HOSTILE) for k in (1, 2)])
    store.add_tasks([make_task("evil", "evil", "evil-1", "evil-2", priority=9.0, wanted=2)])
    for annotator, verdict in (("ann0", "a"), ("ann1", "tie")):
        pair = store.lease(annotator, 1)[0]
        answer = JudgmentInput(lease_id=pair.lease_id, verdict=verdict, rationale=HOSTILE)
        store.submit(answer, annotator_id=annotator)
    return store


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_from_a_search_to_a_pair_to_an_annotator_with_hostile_text_inert(open_page, context, judged, expect, theme, width):
    page = open_page("rosa", color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(f"{open_page.url}/console/pairs")
    expect(page.get_by_role("status")).to_have_text("2 judgments")
    assert_accessible(page)
    page.get_by_label("Words").fill("needle")
    page.get_by_label("verdict").select_option("tie")
    page.get_by_role("button", name="Search").click()
    assert "q=needle" in page.url and "verdict=tie" in page.url  # the view is a link
    expect(page.get_by_role("status")).to_have_text("1 judgment")
    page.locator("table.pairs a").click()
    expect(page.get_by_role("heading", name="What was said")).to_be_visible()
    assert page.locator("main :is(img, script, iframe)").count() == 0
    assert_accessible(page)
    page.get_by_role("link", name="Annotator 1", exact=True).click()
    expect(page.get_by_role("heading", name="Annotator 1")).to_be_visible()
    assert_accessible(page)
    for name in ("Disagreements", "Annotators", "Lineage"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "owned" not in page.title()


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_a_campaign_is_set_up(open_page, context, expect, theme, width):
    page = open_page("rosa", color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(f"{open_page.url}/console/campaign")
    page.get_by_label("Aspects, one on each line").fill("helpful\nsafe")
    page.get_by_label("Ask on a scale of seven").check()
    page.get_by_label("Judgments per pair").fill("2")
    page.get_by_label("Price of a judgment").fill("0.2")
    page.get_by_label("Which pairs to label next").select_option("bald")
    page.get_by_label("Update rule").select_option("dpo")
    expect(page.locator("[data-rule=dpo]")).to_be_visible()
    page.get_by_label("beta").fill("0.3")
    assert_accessible(page)
    page.get_by_role("button", name="Save the campaign").click()
    expect(page.locator("#saved")).to_contain_text("Saved")
    campaign = context.store.campaign()
    assert (campaign.aspects, campaign.ask_strength, campaign.overlap) == (("helpful", "safe"), True, 2)
    assert campaign.price_per_label == 0.2
    assert campaign.round == {"selection": "bald", "update": {"rule": "dpo", "beta": 0.3}}
    page.reload()
    expect(page.get_by_label("Aspects, one on each line")).to_have_value("helpful\nsafe")
    expect(page.get_by_label("beta")).to_have_value("0.3")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_wrong_values_and_bad_files_are_told_and_nothing_is_saved(open_page, context, expect, tmp_path):
    open_page.expected = ("422",)
    page = open_page("rosa")
    page.goto(f"{open_page.url}/console/campaign")
    page.get_by_label("Share that must be right").fill("7")
    page.get_by_role("button", name="Save the campaign").click()
    expect(page.locator("#saved")).to_contain_text("pass_mark")
    assert context.store.campaign().pass_mark is None
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    bad.write_text('{"prompt": "one"}\n{"nothing": 1}\n')
    good.write_text('{"prompt": "How high is up?"}\n{"prompt": "How deep is down?"}\n')
    page.locator("input[type=file]").set_input_files(bad)
    expect(page.locator("#preview")).to_contain_text("nothing")
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#uploaded")).to_contain_text("2")  # the line
    before = len(context.store.list_prompts())
    page.locator("input[type=file]").set_input_files(good)
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#uploaded")).to_contain_text("Imported")
    assert len(context.store.list_prompts()) == before + 2
