"""A participant from the platform's link to the code, exclusion with a reason, and adjudication, in a real Chromium."""

import pytest

from annotate_app.crowd_platform import open_study
from storage.records import JudgmentInput
from tests.browser.axe import assert_accessible
from tests.storage.builders import make_task

pytestmark = pytest.mark.browser


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


def test_a_participant_comes_in_by_the_link_and_leaves_with_the_code(chromium, context, url, expect, tmp_path):
    study = open_study(context.store, "tone", labels=1, actor="rosa", code="C0DE")
    for theme, width in (("light", 1440), ("dark", 390)):
        window = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        page = window.new_page()
        page.goto(f"{url}/join/{study.key}?PROLIFIC_PID=5f3a{width}&STUDY_ID=s&SESSION_ID=x")
        expect(page.get_by_text(f"participant 5f3a{width}")).to_be_visible()
        assert_accessible(page)
        page.screenshot(path=tmp_path / f"join-{theme}.png")
        page.get_by_role("button", name="Begin").click()
        page.wait_for_url(url + "/")
        page.locator("#text-a").wait_for()
        page.wait_for_timeout(300)
        page.keyboard.press("a")
        code = page.get_by_role("link", name="Completion code")
        code.wait_for()
        assert_accessible(page)
        page.screenshot(path=tmp_path / f"done-{theme}.png")
        code.click()
        expect(page.get_by_text("C0DE", exact=True)).to_be_visible()
        assert page.get_by_role("link", name="Back to the platform").get_attribute("href") == study.link_back
        assert_accessible(page)
        page.screenshot(path=tmp_path / f"code-{theme}.png")
        window.close()


def test_a_researcher_excludes_somebody_and_takes_it_back(open_page, context, expect):
    store = context.store
    [pair] = store.lease("ann0", 1)
    store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0")
    page = open_page("rosa")
    page.goto(f"{open_page.url}/console/annotators/ann0")
    page.get_by_label("Reason").fill("<b>clicks</b>")
    page.get_by_role("button", name="Exclude").click()
    expect(page.get_by_text("Excluded: <b>clicks</b>")).to_be_visible()
    assert_accessible(page)
    assert store.count_judgments() == 0
    page.get_by_label("Reason").fill("a mistake")
    page.get_by_role("button", name="Include again").click()
    expect(page.get_by_role("button", name="Exclude")).to_be_visible()
    assert store.count_judgments() == 1


def test_a_contested_pair_comes_to_the_researchers_labelling_page(open_page, context, expect):
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="test", reason="another is wanted")
    store.add_tasks([make_task("both", "q0", "q0-1", "q0-2", wanted=2)])
    for who, side in (("ann0", "1"), ("ann2", "2")):
        [pair] = store.lease(who, 1)
        verdict = "a" if pair.response_a_id == f"q0-{side}" else "b"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=who)
    page = open_page("rosa")
    page.goto(f"{open_page.url}/console/pairs?only=disagreement")
    expect(page.get_by_text("One pair waits for a researcher")).to_be_visible()
    assert_accessible(page)
    page.get_by_role("button", name="Adjudicate").click()
    page.wait_for_url(open_page.url + "/")
    expect(page.locator("#text-a")).to_contain_text("Answer q0-")
    page.wait_for_timeout(300)
    with page.expect_response(lambda answer: answer.url.endswith("/judgments") and answer.status == 201):
        page.keyboard.press("a")
        page.keyboard.press("Enter")
    page.goto(f"{open_page.url}/console/pairs?only=disagreement")
    expect(page.get_by_text("Nothing waits for adjudication.")).to_be_visible()
