"""Live prompts in the browser, keyboard only, against a real policy server: ask, watch, judge, go on, and what can go wrong."""

# ruff: noqa: F401, F811 fixtures are imported

import pytest
from playwright.sync_api import expect

from annotate_app.server import serve_in_background
from annotate_app.web import build_app
from tests.browser.axe import assert_accessible
from tests.browser.conftest import _Visits
from tests.live_prompts import QUESTION, base, live_context, server

pytestmark = pytest.mark.browser


@pytest.fixture
def open_live(chromium, live_context):
    with serve_in_background(build_app(live_context)) as url, _Visits(chromium, url, live_context).watched() as visits:
        yield visits


def in_state(page, name: str):
    return page.locator(f'.page[data-state="{name}"]').wait_for()


def ask(page, text: str) -> None:
    in_state(page, "writing")
    expect(page.locator("#live-text")).to_be_focused()
    page.keyboard.type(text)
    page.keyboard.press("Control+Enter")


def test_a_conversation_by_keyboard_with_the_queue_untouched_underneath(open_live, live_context):
    page = open_live()
    in_state(page, "pair")
    waiting = page.locator("#pair").get_attribute("data-lease")
    page.keyboard.press("p")
    ask(page, QUESTION)
    in_state(page, "pair")
    lease = page.locator("#pair").get_attribute("data-lease")
    assert lease != waiting
    expect(page.locator("#text-prompt")).to_have_text(QUESTION)
    better = page.locator("#text-b").inner_text()
    page.keyboard.press("b")
    in_state(page, "writing")
    expect(page.locator("#live-chat .turn-assistant")).to_contain_text(better.splitlines()[0])
    expect(page.locator("#live-line")).to_contain_text("goes on with response B")
    ask(page, "Why?")
    in_state(page, "pair")
    expect(page.locator("#text-prompt .turn")).to_have_count(3)
    with page.expect_response("**/api/v1/judgments"):
        page.keyboard.press("x")
    expect(page.locator("#live-line")).to_contain_text("begin anew")
    page.keyboard.press("Escape")
    in_state(page, "pair")
    expect(page.locator("#pair")).to_have_attribute("data-lease", waiting)
    verdicts = [judgment.verdict for judgment in live_context.store.list_judgments(annotator_id="ann0")]
    assert verdicts == ["both_bad", "b"]
    page.keyboard.press("u")  # undo reaches through
    expect(page.locator("#text-prompt .turn")).to_have_count(3)


def test_an_answer_can_be_stopped_and_a_hostile_prompt_is_only_text(open_live, live_context):
    hostile = "<img src=x onerror=alert(1)> **bold** <script>alert(2)</script>"
    page = open_live()
    in_state(page, "pair")
    page.keyboard.press("p")
    ask(page, hostile)
    in_state(page, "pair")
    assert page.locator("#text-prompt img, #text-prompt script").count() == 0
    expect(page.locator("#text-prompt")).to_contain_text("<img src=x")
    page.keyboard.press("a")
    page.locator("#live-new").click()
    page.route("**/api/v1/live/turns", lambda route: None)  # never answered
    ask(page, "Tell me more")
    in_state(page, "streaming")
    page.keyboard.press("Escape")
    in_state(page, "writing")
    expect(page.locator("#live-line")).to_contain_text("Stopped")
    expect(page.locator("#live-text")).to_have_value("Tell me more")


def test_a_dead_server_sends_people_back_to_the_queue_with_their_prompt_kept(open_live, live_context, server):
    open_live.expected += ("503",)
    page = open_live()
    in_state(page, "pair")
    process = server._process
    process.kill()
    process.wait()
    page.keyboard.press("p")
    ask(page, QUESTION)
    expect(page.locator("#live-line")).to_contain_text("Go on with the queue")
    expect(page.locator("#live-text")).to_have_value(QUESTION)
    page.keyboard.press("Escape")
    in_state(page, "pair")
    with page.expect_response("**/api/v1/judgments"):
        page.keyboard.press("a")
    assert live_context.store.count_judgments() == 1


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_writing_and_watching_are_accessible(open_live, width, scheme):
    page = open_live(viewport={"width": width, "height": 844}, color_scheme=scheme)
    in_state(page, "pair")
    page.keyboard.press("p")
    in_state(page, "writing")
    assert_accessible(page)
    page.route("**/api/v1/live/turns", lambda route: None)
    ask(page, QUESTION)
    in_state(page, "streaming")
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Escape")


def test_two_policies_answer_a_prompt_of_the_researchers_own(open_live):
    page = open_live("rosa")
    page.goto(page.url + "console/lineage")
    page.locator("#compare select[name=a]").select_option("9")
    page.locator("#compare select[name=b]").select_option("1")
    page.locator("#ask-both textarea").fill(QUESTION)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#asked")).to_have_text("Both have answered.")
    texts = [page.locator(f'#answers [data-side="{side}"]').inner_text() for side in "ab"]
    assert all(texts) and texts[0] != texts[1]
    assert_accessible(page)
