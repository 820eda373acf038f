"""The labelling page in a real Chromium against the real app: keys, mouse, undo, reload, no connection, hostile text."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from storage.records import JudgmentInput
from tests.storage.builders import make_prompt, make_response, make_task

pytestmark = pytest.mark.browser

HOSTILE = """<script>document.title = 'owned'</script><img src="http://evil.example/x.png" onerror="document.title='owned'">
![pixel](http://evil.example/y.png) <div style="position:fixed;inset:0;z-index:99">cover</div>
<button data-verdict="a" id="undo">fake</button> [run](javascript:document.title='owned') \u202egnp.exe\u202c"""


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


def add_pairs(context, names, text="An answer"):
    store = context.store
    store.add_prompts([make_prompt(name) for name in names])
    store.add_responses([make_response(f"{name}-{k}", name, text=f"{text} {k} to {name}.") for name in names for k in (1, 2)])
    store.add_tasks([make_task(f"task-{name}", name, f"{name}-1", f"{name}-2") for name in names])


def shown_lease(page):
    page.locator('.page[data-state="pair"]').wait_for()
    return page.locator("#pair").get_attribute("data-lease")


def act(page, expect, press):
    """Press something that judges, wait for the next pair (or none), and return the lease that was judged."""
    lease = shown_lease(page)
    press()
    expect(page.locator(f'[data-state="pair"] #pair[data-lease="{lease}"]')).to_have_count(0)
    return lease


def saved(page, expect):
    expect(page.locator("#saving")).to_be_empty()


def kept(context, lease):
    return context.store.get_judgment(lease)


def test_five_pairs_with_keys_and_mouse(open_page, context, expect):
    add_pairs(context, ["p3", "p4", "p5"])
    page = open_page()
    began = datetime.now(UTC)
    keys = page.keyboard
    plain = act(page, expect, lambda: keys.press("a"))
    keys.press("2")
    expect(page.get_by_role("button", name="Clearly", exact=True)).to_have_attribute("aria-pressed", "true")
    strong = act(page, expect, lambda: keys.press("ArrowRight"))
    expect(page.get_by_role("button", name="Clearly", exact=True)).to_have_attribute("aria-pressed", "false")
    keys.press("w")
    keys.type("both say a and b, t and x")  # letters in the field judge nothing
    keys.press("Control+Enter")
    tie = act(page, expect, lambda: keys.press("t"))
    page.get_by_role("button", name="Much", exact=True).click()
    clicked = act(page, expect, page.get_by_role("button", name="A is better", exact=True).click)
    bad = act(page, expect, page.get_by_role("button", name="Both bad", exact=True).click)
    keys.press("s")
    expect(page.get_by_role("dialog")).to_be_visible()
    skipped = act(page, expect, lambda: keys.press("4"))
    expect(page.get_by_text("All caught up")).to_be_visible()
    saved(page, expect)
    judged = [kept(context, lease) for lease in (plain, strong, tie, clicked, bad, skipped)]
    assert [(j.verdict, j.strength) for j in judged] == [
        ("a", None), ("b", 2), ("tie", None), ("a", 3), ("both_bad", None), ("skip", None),
    ]  # fmt: skip
    assert [j.rationale for j in judged] == [None, None, "both say a and b, t and x", None, None, None]
    assert judged[-1].reasons == ("broken_text",)
    clocks = timedelta(seconds=2)  # the browser's clock is not the server's
    assert all(began - clocks < j.shown_at <= j.submitted_at + clocks for j in judged[1:])
    assert page.locator("#stats").inner_text().startswith("5 today")


def test_what_is_judged_is_what_was_shown(open_page, context, expect):
    page = open_page()
    for _ in range(3):
        lease = shown_lease(page)
        text_a, text_b = page.locator("#text-a").inner_text(), page.locator("#text-b").inner_text()
        act(page, expect, lambda: page.keyboard.press("b"))
        saved(page, expect)
        judgment = kept(context, lease)
        texts = {r.id: r.text for r in context.store.list_responses()}
        assert (texts[judgment.response_a_id], texts[judgment.response_b_id]) == (text_a, text_b)


def test_one_request_per_verdict_and_the_next_pair_is_there_already(open_page, context, expect):
    add_pairs(context, [f"more{n}" for n in range(6)])
    page = open_page()
    shown_lease(page)
    page.wait_for_timeout(300)
    requests = []
    page.on("request", lambda r: requests.append((r.method, r.url.removeprefix(open_page.url))))
    for _ in range(5):
        act(page, expect, lambda: page.keyboard.press("a"))
        saved(page, expect)
    assert requests == [("POST", "/api/v1/judgments")] * 5


def test_undo_takes_back_and_the_pair_can_be_judged_anew(open_page, context, expect):
    page = open_page()
    shown_lease(page)
    page.keyboard.press("3")
    wrong = act(page, expect, lambda: page.keyboard.press("a"))
    other = shown_lease(page)
    expect(page.locator("#undo")).to_contain_text("A is better, much")
    page.keyboard.press("u")
    expect(page.locator("#toast")).to_contain_text("Taken back")
    again = shown_lease(page)
    assert again not in (wrong, other)
    expect(page.get_by_role("button", name="Much", exact=True)).to_have_attribute("aria-pressed", "true")
    act(page, expect, lambda: page.keyboard.press("b"))
    saved(page, expect)
    assert kept(context, again).supersedes == wrong
    assert [(j.verdict, j.strength) for j in context.store.list_judgments()] == [("b", 3)]
    assert shown_lease(page) == other
    page.reload()  # what was done before the reload can be undone, too
    shown_lease(page)
    page.keyboard.press("Control+z")
    expect(page.locator("#toast")).to_contain_text("You had said: B is better, much")
    assert context.store.count_judgments() == 0


def test_a_reload_shows_the_same_pair_again(open_page, context, expect):
    page = open_page()
    before = shown_lease(page)
    page.reload()
    assert shown_lease(page) == before
    assert context.store.stats()["leases_open"] == 3  # the pair shown and two ahead, not more


def test_without_connection_verdicts_wait_and_are_sent_later(open_page, context, expect):
    open_page.expected = ("ERR_INTERNET_DISCONNECTED",)
    page = open_page()
    shown_lease(page)
    page.context.set_offline(True)
    first = act(page, expect, lambda: page.keyboard.press("a"))
    second = act(page, expect, lambda: page.keyboard.press("b"))
    expect(page.locator("#saving")).to_contain_text("2 verdicts not saved yet")
    page.keyboard.press("u")  # the second was never sent: taken back at once, without the server
    assert shown_lease(page) == second
    expect(page.locator("#saving")).to_contain_text("1 verdict not saved yet")
    assert context.store.count_judgments() == 0
    page.context.set_offline(False)
    saved(page, expect)
    assert [j.id for j in context.store.list_judgments()] == [first]


def test_an_answer_lost_on_the_way_is_asked_for_again_and_counted_once(open_page, context, expect):
    open_page.expected = ("ERR_FAILED",)
    page = open_page()
    lost = []

    def lose_first(route):
        if not lost:
            route.fetch()  # the server stores it
            lost.append(route.request.post_data_json["lease_id"])
            route.abort()
        else:
            route.continue_()

    page.route("**/api/v1/judgments", lose_first)
    lease = act(page, expect, lambda: page.keyboard.press("a"))
    saved(page, expect)
    assert lost == [lease]
    assert [j.id for j in context.store.list_judgments()] == [lease]
    act(page, expect, lambda: page.keyboard.press("t"))
    act(page, expect, lambda: page.keyboard.press("x"))
    expect(page.get_by_text("All caught up")).to_be_visible()
    assert context.store.count_judgments() == 3


def test_a_pair_answered_elsewhere_is_told_kindly(open_page, context, expect):
    open_page.expected = ("409",)
    page = open_page()
    lease = shown_lease(page)
    context.store.submit(JudgmentInput(lease_id=lease, verdict="tie"), annotator_id="ann0")
    act(page, expect, lambda: page.keyboard.press("a"))
    expect(page.locator("#toast")).to_contain_text("answered before")
    assert kept(context, lease).verdict == "tie"
    shown_lease(page)


def test_signed_out_meanwhile_nothing_is_lost(open_page, context, expect):
    open_page.expected = ("401",)
    page = open_page()
    shown_lease(page)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    lease = act(page, expect, lambda: page.keyboard.press("a"))
    expect(page.get_by_role("link", name="Sign in again")).to_be_visible()
    page.context.add_cookies(cookies)
    saved(page, expect)
    assert kept(context, lease).verdict == "a"


def test_new_pairs_appear_by_themselves(open_page, context, expect):
    page = open_page()
    for _ in range(3):
        act(page, expect, lambda: page.keyboard.press("x"))
    expect(page.get_by_text("All caught up")).to_be_visible()
    add_pairs(context, ["late"])
    assert shown_lease(page)
    expect(page.locator("#text-prompt")).to_have_text("Question late?")


def test_the_last_pair_can_be_undone_with_the_mouse_too(open_page, context, expect):
    page = open_page()
    for _ in range(3):
        act(page, expect, lambda: page.keyboard.press("a"))
    expect(page.get_by_text("All caught up")).to_be_visible()
    page.locator("#undo").click()
    shown_lease(page)
    expect(page.locator("#toast")).to_contain_text("Taken back")
    assert context.store.count_judgments() == 2


def test_a_key_held_down_judges_one_pair(open_page, context, expect):
    page = open_page()
    shown_lease(page)
    page.get_by_role("button", name="Tie", exact=True).focus()
    for key in ("a", "Enter"):
        before = shown_lease(page)
        for _ in range(4):  # pressed again without release: what a held key sends
            page.keyboard.down(key)
        page.keyboard.up(key)
        expect(page.locator("#pair")).not_to_have_attribute("data-lease", before)
    saved(page, expect)
    assert [j.verdict for j in context.store.list_judgments()] == ["tie", "a"]


def test_hostile_text_stays_inert(open_page, context, expect):
    context.store.add_prompts([make_prompt("evil", text=HOSTILE)])
    context.store.add_responses([make_response(f"evil-{k}", "evil", text=HOSTILE) for k in (1, 2)])
    context.store.add_tasks([make_task("evil", "evil", "evil-1", "evil-2", priority=9.0)])
    page = open_page()  # open_page fails the test if another host was asked
    lease = shown_lease(page)
    for box in ("#text-prompt", "#text-a", "#text-b"):
        assert page.locator(f"{box} :is(img, script, button, div, [style], [id], [class])").count() == 0
        assert "[U+202E]" in page.locator(box).inner_text()
        assert "<script>" in page.locator(box).inner_text()
    act(page, expect, page.get_by_role("button", name="B is better", exact=True).click)  # nothing covers it, nothing fakes it
    saved(page, expect)
    assert kept(context, lease).verdict == "b"
    assert page.title() == "Nashloop"


def test_the_keyboard_alone_reaches_everything(open_page, context, expect):
    page = open_page()
    lease = shown_lease(page)
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.getElementById('island-host').shadowRoot.activeElement?.outerHTML ?? ''")
        reached.append(re.sub(r"<span.*", "", focused)[:200])
    for name in ("guidelines-toggle", "help-open", "sign-out", "text-prompt", "text-a", "text-b", "undo", "note", "skip"):
        assert any(f'id="{name}"' in element for element in reached), name
    for verdict in ("a", "tie", "both_bad", "b"):
        assert any(f'data-verdict="{verdict}"' in element for element in reached)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("a")  # a dialog keeps keys to itself
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    expect(page.locator("#guidelines")).to_be_hidden()
    assert shown_lease(page) == lease
    act(page, expect, lambda: page.keyboard.press("t"))
    expect(page.locator("#announce")).to_contain_text("Tie. New pair. Prompt: Question")


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)])
def test_buttons_can_be_read_and_nothing_moves_or_overflows(open_page, context, expect, theme, width):
    long = "A sentence that goes on for a while. " * 120
    context.store.add_prompts([make_prompt("long")])
    context.store.add_responses([make_response("long-1", "long", text=long), make_response("long-2", "long", text="Short.")])
    context.store.add_tasks([make_task("long", "long", "long-1", "long-2", priority=9.0)])
    page = open_page(color_scheme=theme, viewport={"width": width, "height": 844})
    shown_lease(page)
    button = page.get_by_role("button", name="A is better", exact=True)
    before = button.bounding_box()
    assert before["y"] + before["height"] <= 844
    assert contrast(page, button) >= 4.5  # WCAG 2.2 AA
    assert contrast(page, page.get_by_role("button", name="Tie", exact=True)) >= 4.5
    act(page, expect, button.click)
    assert button.bounding_box() == before
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrast(page, locator):
    """WCAG contrast of an element's text against its own background (both opaque), from the colours the browser computed."""
    style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    lights = []
    for colour in locator.evaluate(style):
        numbers = [float(n) for n in re.findall(r"[\d.]+", colour)[:3]]
        channels = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in numbers]
        lights.append(0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
