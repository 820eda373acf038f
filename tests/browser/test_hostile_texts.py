"""Every hostile text on the labelling page and in the pair browser: nothing runs, nothing is fetched, nothing leaves its box."""

import pytest

from tests.browser.hostile_corpus import HOSTILE
from tests.storage.builders import make_prompt, make_response, make_task

pytestmark = pytest.mark.browser

LISTEN = """addEventListener("securitypolicyviolation", (event) => {
    window.violations = [...(window.violations ?? []), event.violatedDirective + event.blockedURI];
});"""
HARMFUL = ":is(script, img, iframe, object, embed, form, input, link, style, base, meta, svg, [style], [onload], [onerror])"


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390)])
def test_hostile_texts_are_inert_and_keep_to_their_box(open_page, context, expect, theme, width):
    store = context.store
    for n, (name, text) in enumerate(HOSTILE.items()):
        key = f"h{n:02d}"
        prompt = text if len(text) < 10_000 else name
        store.add_prompts([make_prompt(key, text=prompt)])
        store.add_responses([make_response(f"{key}-{k}", key, text=text) for k in (1, 2)])
        store.add_tasks([make_task(key, key, f"{key}-1", f"{key}-2", priority=9.0)])
    page = open_page(color_scheme=theme, viewport={"width": width, "height": 844})  # fails if another host is asked
    page.add_init_script(LISTEN)
    page.reload()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    for name in HOSTILE:
        page.locator('.page[data-state="pair"]').wait_for()
        lease = page.locator("#pair").get_attribute("data-lease")
        for box in ("#text-prompt", "#text-a", "#text-b"):
            assert page.locator(f"{box} {HARMFUL}").count() == 0, name
            assert page.locator(f"{box} a[href]:not([href^='http'])").count() == 0, name
        button = page.get_by_role("button", name="B is better", exact=True)
        box = button.bounding_box()
        assert box and box["y"] + box["height"] <= 844 and box["x"] + box["width"] <= width, name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        button.click()  # nothing lies over it
        expect(page.locator(f'[data-state="pair"] #pair[data-lease="{lease}"]')).to_have_count(0)
    expect(page.locator("#saving")).to_be_empty()
    assert page.title() == "Nashloop"
    assert page.evaluate("window.violations ?? []") == []
    assert {j.verdict for j in store.list_judgments()} == {"b"} and store.count_judgments() == len(HOSTILE)


def test_the_pair_browser_shows_them_as_text(open_page, context, expect):
    store = context.store
    for n, text in enumerate(HOSTILE.values()):
        key = f"h{n:02d}"
        store.add_prompts([make_prompt(key, text=text[:5_000])])
        store.add_responses([make_response(f"{key}-{k}", key, text=text) for k in (1, 2)])
        store.add_tasks([make_task(key, key, f"{key}-1", f"{key}-2", priority=9.0)])
    page = open_page("rosa", viewport={"width": 390, "height": 844})
    page.add_init_script(LISTEN)
    for n, name in enumerate(HOSTILE):
        page.goto(f"{open_page.url}/console/pairs/h{n:02d}")
        harmful = HARMFUL.replace("svg, ", "")
        assert page.locator(f"article {harmful}").count() == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate("window.violations ?? []") == [], name
    assert page.title().startswith("One pair")
